# pyright: reportArgumentType=false, reportIndexIssue=false
# (to a checker every attribute of an nn.Module is `Tensor | Module`)
"""Give a compressed network's layers the output moments of the original on the same examples.

One forward pass of the original collects the mean and standard deviation of every output channel; one of the compressed network
corrects each layer's output on the fly, y -> gain y + shift, so that later layers already see corrected inputs. Gain and shift
then go into weight and bias. A network matched to itself is left exactly as it is, which the usual re-estimation of BatchNorm
statistics on calibration data is not.

**Source**: moment matching after Finkelstein et al. 2019 and Nagel et al. 2019 (bias correction) extended to the second moment;
differs from BatchNorm re-estimation in that the target is the original network on the same examples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from dyncompress.errors import InvalidRequest
from dyncompress.models.torch.calling import outputs, split, temporary_hooks
from dyncompress.models.torch.layer_trace import TracedModel, used_once
from dyncompress.models.torch.layers import channel_axis
from dyncompress.types import Batch

# A channel whose spread must change by more than this is broken; stretching it further amplifies noise.
_GAIN_LIMITS = (0.5, 2.0)
# Channels of a smaller share of the layer's typical spread are as good as constant: only their mean is matched.
_NEARLY_CONSTANT = 1e-3
# Examples that are matched on: on CIFAR ResNets at 8, 4 and 3 bits the divergence on other images is within 2 % of what four
# times as many give.
_EXAMPLES = 512
# Numbers in the largest activation of the one forward pass: about 250 MB.
_LARGEST_ACTIVATION = 1 << 26
# Examples of the original that go through together: their activations stay in the cache.
_AT_ONCE = 64
# Examples of one shape, below which those of other shapes are cut to join them.
_FEW = 32
# Numbers reduced at once: what a core's cache holds.
_BLOCK_NUMBERS = 1 << 18

Moments = tuple[Tensor, Tensor]  # mean and standard deviation, float64 `[out]`
Sums = tuple[int, Tensor, Tensor]  # count, mean, and squared distances from it, float64 `[out]`


def gains(model: TracedModel, reference: TracedModel, batches: Sequence[Batch], names: Sequence[str]) -> dict[str, Moments]:
    """Layer -> (gain, shift) that match the output moments of `reference`.

    Layers called more than once a pass, layers that share their weight, and embeddings are passed over.

    Args:
        model: the compressed network.
        reference: the original.
        batches: calibration inputs; the first 512 at most, and as many as fit the largest activation into 256 MB, are used.
        names: layers to match.

    Raises:
        InvalidRequest: fewer than two examples, or a layer whose channels aren't among the reference's.
    """
    chosen = [
        name
        for name in names
        if used_once(model.module, model.trace, name) and used_once(reference.module, reference.trace, name)
    ]
    if not chosen:
        return {}
    fitting = _LARGEST_ACTIVATION // max(model.trace.largest, reference.trace.largest)
    batch = join_batches(batches, model.input_names, min(_EXAMPLES, max(2, fitting)))
    wanted = _moments(reference, batch, chosen)
    found: dict[str, Moments] = {}

    def correct(name: str, layer: nn.Module, output: Tensor) -> Tensor:
        """Give an output its target moments, so that later layers see corrected inputs."""
        axis = channel_axis(layer, output)
        target = tuple(values[_rows(model, reference, name).to(values.device)] for values in wanted[name])
        gain, shift = corrections(moments_of(layer, output), target)
        found[name] = (gain.float(), shift.float())
        shape = [-1 if a == axis else 1 for a in range(output.ndim)]
        factor, summand = (value.to(output.dtype).view(shape) for value in found[name])
        return torch.addcmul(summand, output, factor)

    layers = {name: model.module.get_submodule(model.trace.modules[name]) for name in chosen}
    handles = [m.register_forward_hook(lambda m, _a, o, name=name: correct(name, m, o)) for name, m in layers.items()]
    with temporary_hooks(handles):
        outputs(model.module, batch, model.input_names)
    return {name: found[name] for name in chosen if name in found}


def corrections(own: Moments, target: Moments) -> Moments:
    """Gain and shift, float64 `[out]`, that turn moments `own` into `target`, gains within [0.5, 2].

    Where the target's spread is below a thousandth of the layer's typical one, or the own spread is, only the mean is matched.
    """
    (mean, std), (wanted_mean, wanted_std) = own, target
    typical = _NEARLY_CONSTANT * wanted_std.median()
    alive = (wanted_std > typical) & (std > typical)
    ratio = torch.where(alive, wanted_std / torch.where(alive, std, torch.ones_like(std)), torch.ones_like(std))
    gain = ratio.clamp(*_GAIN_LIMITS)
    return gain, wanted_mean - gain * mean


def moments_of(layer: nn.Module, output: Tensor) -> Moments:
    """Mean and standard deviation of every output channel over examples and positions, float64."""
    return _moments_from_sums(_add_output(None, layer, output))


def _add_output(known: Sums | None, layer: nn.Module, output: Tensor) -> Sums:
    """Sums with one more output.

    Float32 sums within a block small enough for the cache, centred on the block's own mean so that large means don't drown the
    spread; blocks are put together in float64 (Chan, Golub and LeVeque 1983). On a CPU several times faster than torch.var_mean.
    """
    axis = channel_axis(layer, output)
    before, after = output.shape[:axis].numel(), output.shape[axis + 1 :].numel()
    rows = output.detach().reshape(before, output.shape[axis], after)
    zero = rows.new_zeros(rows.shape[1], dtype=torch.float64)
    count, mean, squares = known if known is not None else (0, zero, zero)
    examples = min(_AT_ONCE, max(1, _BLOCK_NUMBERS * len(output) // max(output.numel(), 1)))
    examples = 1 << (examples.bit_length() - 1)  # a divisor of _AT_ONCE: the same blocks however the examples come
    for block in rows.split(examples * before // len(output)):
        size = len(block) * after
        own = block.sum(-1).sum(0, dtype=torch.float64) / size
        spread = torch.linalg.vector_norm(block - own.to(block.dtype)[:, None], dim=-1).square().sum(0, dtype=torch.float64)
        step = own - mean
        squares = squares + spread + step.square() * (count * size / (count + size))
        mean = mean + step * (size / (count + size))
        count += size
    return count, mean, squares


def _moments_from_sums(sums: Sums) -> Moments:
    """Mean and standard deviation."""
    count, mean, squares = sums
    return mean, (squares / count).sqrt()


def join_batches(batches: Sequence[Batch], names: Sequence[str], limit: int) -> Batch:
    """The first `limit` examples as one batch: those of the first batch's shape, or where these are few, all that are long enough
    to be cut to a length that three quarters of the batches have.

    Raises:
        InvalidRequest: fewer than two examples.
    """
    taken = list(_first_batches(batches, names, limit))
    if sum(len(batch[names[0]]) for batch in taken) < min(_FEW, limit):
        taken = _cut_to_one_shape(batches, names) or taken
    n = sum(len(batch[names[0]]) for batch in taken)
    if n < 2:
        raise InvalidRequest(f"matching moments needs at least 2 calibration examples of one shape, and {n} were given.")
    return {name: torch.cat([torch.as_tensor(batch[name]) for batch in taken])[:limit] for name in names}


def _first_batches(batches: Sequence[Batch], names: Sequence[str], limit: int) -> Iterator[Batch]:
    """Batches of one shape until `limit` examples are reached."""
    n = 0
    for batch in batches:
        if n >= limit or any(tuple(batch[name].shape[1:]) != tuple(batches[0][name].shape[1:]) for name in names):
            return
        n += len(batch[names[0]])
        yield batch


def _cut_to_one_shape(batches: Sequence[Batch], names: Sequence[str]) -> list[Batch]:
    """All batches that are long enough along every axis, cut to one shape."""
    shapes = {name: [tuple(batch[name].shape[1:]) for batch in batches] for name in names}
    wanted = {name: [sorted(sizes)[len(sizes) // 4] for sizes in zip(*found, strict=True)] for name, found in shapes.items()}
    long = [
        batch
        for batch in batches
        if all(a >= b for name in names for a, b in zip(batch[name].shape[1:], wanted[name], strict=True))
    ]
    ends = {name: (slice(None), *(slice(size) for size in sizes)) for name, sizes in wanted.items()}
    return [{name: batch[name][ends[name]] for name in names} for batch in long]


def _moments(model: TracedModel, batch: Batch, names: Sequence[str]) -> dict[str, Moments]:
    """Output moments of these layers, a few examples at a time."""
    found: dict[str, Sums] = {}
    layers = {name: model.module.get_submodule(model.trace.modules[name]) for name in names}

    def look(name: str, layer: nn.Module, output: Tensor) -> None:
        found[name] = _add_output(found.get(name), layer, output)

    with temporary_hooks([m.register_forward_hook(lambda m, _a, o, name=name: look(name, m, o)) for name, m in layers.items()]):
        for piece in split(batch, model.input_names, _AT_ONCE):
            outputs(model.module, piece, model.input_names)
    return {name: _moments_from_sums(sums) for name, sums in found.items()}


def _rows(model: TracedModel, reference: TracedModel, name: str) -> Tensor:
    """Positions of the model's channels among the reference's.

    Raises:
        InvalidRequest: the reference lacks one.
    """
    size = int(reference.module.get_submodule(reference.trace.modules[name]).weight.shape[0])
    known = reference.kept.get(name)
    own = model.kept.get(name)
    if own is None:
        return torch.arange(len(known) if known is not None else _channels(reference, name))
    if known is None:
        return torch.tensor(own)
    place = {channel: i for i, channel in enumerate(known)}
    if any(channel not in place for channel in own):
        raise InvalidRequest(
            f"layer '{name}': the reference has {size} channels and lacks some of the model's; match to a wider one."
        )
    return torch.tensor([place[channel] for channel in own])


def _channels(model: TracedModel, name: str) -> int:
    """Output channels of a layer."""
    return next(layer.out for layer in model.trace.layers if layer.name == name)
