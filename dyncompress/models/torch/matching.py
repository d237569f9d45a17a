# pyright: reportArgumentType=false, reportIndexIssue=false
# (to a checker every attribute of an nn.Module is `Tensor | Module`)
"""Moment matching: give the layers of a compressed network the output moments of the original on the same examples.

One forward pass of the original observes the mean and standard deviation of every output channel. One forward pass of the
compressed network corrects each layer's output, y -> gain y + shift, so that later layers receive corrected inputs. Gains and
shifts then become part of weights and biases. A network matched to itself stays exactly as it is, which isn't true of the
re-estimation of BatchNorm statistics on calibration data.

**Source**: bias correction (Finkelstein et al. 2019; Nagel et al. 2019), extended to the second moment. It differs from BatchNorm
re-estimation in its target, the original network on the same examples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dyncompress.errors import InvalidRequest
from dyncompress.models.torch.calling import outputs, split, temporary_hooks
from dyncompress.models.torch.layer_trace import used_once
from dyncompress.models.torch.layers import channel_axis
from dyncompress.models.torch.traced_model import TracedModel
from dyncompress.types import Batch

# Limits of the gains: a channel that needs more is broken, and a larger gain amplifies noise.
_GAIN_LIMITS = (0.5, 2.0)
# Share of the layer's median standard deviation below which a channel is nearly constant: only its mean is matched.
_NEARLY_CONSTANT = 1e-3
# Number of examples. On CIFAR ResNets at 8, 4 and 3 bits the divergence on other images is within 2 % of its value for four times
# as many examples.
_EXAMPLES = 512
# Numbers in the largest activation of the one forward pass: about 250 MB.
_LARGEST_ACTIVATION = 1 << 26
# Examples of the original in one forward pass: their activations stay in the cache.
_AT_ONCE = 64
# Numbers summed at once: as many as a core's cache holds.
_BLOCK_NUMBERS = 1 << 18

Moments = tuple[Tensor, Tensor]  # mean and standard deviation, float64 `[out]`
Sums = tuple[int, Tensor, Tensor]  # count, mean, and squared distances from it, float64 `[out]`


def gains(model: TracedModel, reference: TracedModel, batches: Sequence[Batch], names: Sequence[str]) -> dict[str, Moments]:
    """The gains and shifts that match the output moments of a model's layers to those of a reference.

    Layers that are called several times, layers that share their weight, and embeddings are ignored.

    Args:
        model: the compressed network.
        reference: the original.
        batches: calibration inputs by name; the first 512 examples, or fewer if the largest activation would exceed 256 MB.
        names: layers to match.

    Returns:
        layer -> (gain, shift), each `[out]` float32; none at all where the corrected network computes NaN or infinite values.

    Raises:
        InvalidRequest: there are fewer than two examples, or the reference lacks some of a layer's channels.
    """
    single = [
        name
        for name in names
        if used_once(model.module, model.trace, name) and used_once(reference.module, reference.trace, name)
    ]
    if not single:
        return {}
    fitting = _LARGEST_ACTIVATION // max(model.trace.largest, reference.trace.largest)
    batch = join_batches(batches, model.input_names, min(_EXAMPLES, max(2, fitting)))
    targets = _moments(reference, batch, single)
    affine: dict[str, Moments] = {}

    def correct(name: str, layer: nn.Module, output: Tensor) -> Tensor:
        """Forward hook: correct an output, so that later layers receive corrected inputs."""
        axis = channel_axis(layer, output)
        target = tuple(values[_rows(model, reference, name).to(values.device)] for values in targets[name])
        own = moments_of(layer, output)
        smallest = output.detach().amin([a for a in range(output.ndim) if a != axis])
        gain, shift = of_one_sign(corrections(own, target), own, target, smallest)
        affine[name] = (gain.float(), shift.float())
        shape = [-1 if a == axis else 1 for a in range(output.ndim)]
        factor, summand = (value.to(output.dtype).view(shape) for value in affine[name])
        return torch.addcmul(summand, output, factor)

    layers = {name: model.module.get_submodule(model.trace.modules[name]) for name in single}
    handles = [m.register_forward_hook(lambda m, _a, o, name=name: correct(name, m, o)) for name, m in layers.items()]
    with temporary_hooks(handles):
        outputs(model.module, batch, model.input_names)
    finite = all(bool(values.isfinite().all()) for pair in affine.values() for values in pair)
    return {name: affine[name] for name in single if name in affine} if finite else {}


def corrections(own: Moments, target: Moments) -> Moments:
    """Gain and shift, each `[out]` float64, that turn moments `own` into `target`, with gains within [0.5, 2].

    Where one of the two standard deviations is below a thousandth of the layer's median, only the mean is matched.

    Example:
        >>> own = torch.tensor([1.0]), torch.tensor([2.0])
        >>> gain, shift = corrections(own, (torch.tensor([0.0]), torch.tensor([3.0])))
        >>> gain.item(), shift.item()
        (1.5, -1.5)
    """
    (mean, std), (target_mean, target_std) = own, target
    typical = _NEARLY_CONSTANT * target_std.median()
    alive = (target_std > typical) & (std > typical)
    ratio = torch.where(alive, target_std / torch.where(alive, std, torch.ones_like(std)), torch.ones_like(std))
    gain = ratio.clamp(*_GAIN_LIMITS)
    return gain, target_mean - gain * mean


def of_one_sign(affine: Moments, own: Moments, target: Moments, smallest: Tensor) -> Moments:
    """The gain and shift of `corrections`, where channels that are never negative stay so: a logarithm or a root may follow.

    A channel whose smallest value would change its sign gets a gain alone, which matches its mean.

    Args:
        affine: gain and shift.
        own, target: moments before and after.
        smallest: the channels' smallest values before, `[out]`.

    Example:
        >>> own, target = (torch.tensor([1.0]), torch.tensor([1.0])), (torch.tensor([0.9]), torch.tensor([1.0]))
        >>> gain, shift = of_one_sign(corrections(own, target), own, target, torch.tensor([0.0]))
        >>> round(gain.item(), 3), shift.item()
        (0.9, 0.0)
    """
    (gain, shift), mean, target_mean = affine, own[0], target[0]
    negative = (smallest >= 0) & (gain * smallest + shift < 0)
    alone = (target_mean / torch.where(mean > 0, mean, torch.ones_like(mean))).clamp(*_GAIN_LIMITS)
    return torch.where(negative, alone, gain), torch.where(negative, torch.zeros_like(shift), shift)


def moments_of(layer: nn.Module, output: Tensor) -> Moments:
    """Mean and standard deviation of every output channel over examples and positions, each `[out]` float64."""
    return _moments_from_sums(_add_output(None, layer, output))


def _add_output(sums: Sums | None, layer: nn.Module, output: Tensor) -> Sums:
    """The sums after one more output.

    Within a block that fits into the cache, sums are float32 and centred on the block's mean, so that a large mean doesn't hide a
    small spread. Blocks are combined in float64 (Chan, Golub and LeVeque 1983). On a CPU this is several times faster than
    torch.var_mean.
    """
    axis = channel_axis(layer, output)
    before, after = output.shape[:axis].numel(), output.shape[axis + 1 :].numel()
    rows = output.detach().reshape(before, output.shape[axis], after)
    zero = rows.new_zeros(rows.shape[1], dtype=torch.float64)
    count, mean, squares = sums if sums is not None else (0, zero, zero)
    examples = min(_AT_ONCE, max(1, _BLOCK_NUMBERS * len(output) // max(output.numel(), 1)))
    examples = 1 << (examples.bit_length() - 1)  # a divisor of _AT_ONCE: the blocks don't depend on batch sizes
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
    """Mean and standard deviation from count, mean and squared distances."""
    count, mean, squares = sums
    return mean, (squares / count).sqrt()


def join_batches(batches: Sequence[Batch], names: Sequence[str], limit: int) -> Batch:
    """The first examples of several batches as one batch.

    Where the batches have several shapes, those that are long enough along every axis are cropped to one of these shapes: the one
    that leaves the most numbers.

    Args:
        batches: inputs by name.
        names: input names.
        limit: largest number of examples.

    Raises:
        InvalidRequest: there are fewer than two examples.
    """
    shapes = dict.fromkeys(_shape(batch, names) for batch in batches)
    most = max(shapes, key=lambda shape: min(limit, _examples(batches, names, shape)) * _numbers(shape), default=())
    n = _examples(batches, names, most)
    if n < 2:
        raise InvalidRequest(
            f"matching moments needs at least 2 calibration examples of one shape, and {n} were given; give more."
        )
    long_enough = [batch for batch in batches if _covers(batch, names, most)]
    ends = {name: (slice(None), *map(slice, sizes)) for name, sizes in zip(names, most, strict=True)}
    return {name: torch.cat([torch.as_tensor(batch[name])[ends[name]] for batch in long_enough])[:limit] for name in names}


def _shape(batch: Batch, names: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    """The lengths of the axes of each input after the batch axis."""
    return tuple(tuple(batch[name].shape[1:]) for name in names)


def _numbers(shape: Sequence[Sequence[int]]) -> int:
    """Numbers in one example."""
    return sum(math.prod(sizes) for sizes in shape)


def _covers(batch: Batch, names: Sequence[str], shape: Sequence[Sequence[int]]) -> bool:
    """Whether a batch can be cropped to a shape."""
    pairs = zip(_shape(batch, names), shape, strict=True)
    return all(own >= size for inner, outer in pairs for own, size in zip(inner, outer, strict=True))


def _examples(batches: Sequence[Batch], names: Sequence[str], shape: Sequence[Sequence[int]]) -> int:
    """The number of examples that can be cropped to a shape."""
    return sum(len(batch[names[0]]) for batch in batches if _covers(batch, names, shape))


def _moments(model: TracedModel, batch: Batch, names: Sequence[str]) -> dict[str, Moments]:
    """Layer -> output moments, from forward passes of a few examples each."""
    sums: dict[str, Sums] = {}
    layers = {name: model.module.get_submodule(model.trace.modules[name]) for name in names}

    def add(name: str, layer: nn.Module, output: Tensor) -> None:
        sums[name] = _add_output(sums.get(name), layer, output)

    with temporary_hooks([m.register_forward_hook(lambda m, _a, o, name=name: add(name, m, o)) for name, m in layers.items()]):
        for piece in split(batch, model.input_names, _AT_ONCE):
            outputs(model.module, piece, model.input_names)
    return {name: _moments_from_sums(layer_sums) for name, layer_sums in sums.items()}


def _rows(model: TracedModel, reference: TracedModel, name: str) -> Tensor:
    """Indices of a layer's channels among the reference's channels, `[out]`.

    Raises:
        InvalidRequest: the reference lacks one of them.
    """
    size = int(reference.module.get_submodule(reference.trace.modules[name]).weight.shape[0])
    reference_channels = reference.kept.get(name)
    channels = model.kept.get(name)
    if channels is None:
        return torch.arange(len(reference_channels) if reference_channels is not None else _channels(reference, name))
    if reference_channels is None:
        return torch.tensor(channels)
    position = {channel: i for i, channel in enumerate(reference_channels)}
    if any(channel not in position for channel in channels):
        raise InvalidRequest(
            f"layer '{name}': the reference has {size} channels and lacks some of the model's; match to a wider one."
        )
    return torch.tensor([position[channel] for channel in channels])


def _channels(model: TracedModel, name: str) -> int:
    """Number of output channels of a layer."""
    return next(layer.out for layer in model.trace.layers if layer.name == name)
