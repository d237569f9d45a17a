"""A training state beside the model that the training ended at: which saved parameter is the weight of which layer.

A layer is recognised by its values, so that models which were exported, renamed or folded since find their parameters too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from dyncompress.errors import InvalidRequest
from dyncompress.recording.increment_fisher import relative_scale
from dyncompress.recording.layout import depthwise_outputs_first, outputs_first, transposed_outputs_first
from dyncompress.types import Layer, Model, Need, SavedParameter, TrainingState, Weight, WeightFisher

SAME = 1e-3  # a row whose direction differs by less than this is the same
NEAR = 0.1  # up to this relative difference a weight is that of another step of the run
NAMED = 3  # models of which the layers left out are named


@dataclass(frozen=True)
class SavedWeight:
    """What a training state says about one layer.

    Attributes:
        value: the weight as it was trained, `[out, in / groups, *kernel]`.
        fisher: Fisher information of each entry, in the same shape.
        moved: relative difference between the directions of the saved and the model's rows.
        averaged: whether the model's weight is that of another set in the file than the last one (EMA, SWA).
    """

    value: np.ndarray
    fisher: np.ndarray
    moved: float
    averaged: bool = False


@dataclass(frozen=True)
class SavedRun:
    """A training state whose parameters were matched to a model's layers.

    Attributes:
        state: as loaded.
        layers: layer -> what the state says about it.
        notes: sentences on the scale, and on what was left out.
    """

    state: TrainingState
    layers: Mapping[str, SavedWeight]
    notes: tuple[str, ...]

    @property
    def nats(self) -> bool:
        """Whether the unit of the distortions is known."""
        return self.state.nats

    def of(self, layer: str, weight: Tensor) -> Mapping[Need, object]:
        """The Fisher information of a layer's weights as they are folded; nothing where the state doesn't hold it."""
        saved = self.layers.get(layer)
        if saved is None or saved.value.shape != tuple(weight.shape):
            return {}
        return {WeightFisher(): folded_fisher(saved.fisher, row_gain(saved.value, weight), weight)}


def saved_run(state: TrainingState, model: Model, parameters: Mapping[str, Tensor]) -> SavedRun:
    """Match a training state to a model.

    Args:
        state: of the model's training.
        model: as it was opened.
        parameters: the caller's own parameters, which stand for the values of a file without weights.

    Raises:
        InvalidRequest: the state is another model's: most of the weights that it could hold have other values.
    """
    candidates = list(_candidates(state, parameters))
    layers = {layer.name: layer for layer in model.layers()}
    found: dict[str, SavedWeight] = {}
    absent: list[str] = []
    for name, observation in model.observe((Weight(),), ()):
        match = _matched(layers[name], observation[Weight()].detach().cpu().float().numpy(), candidates)
        if match is None:
            absent.append(name)
        else:
            found[name] = match
    whole = sum(layer.weights for layer in layers.values())
    known = sum(layers[name].weights for name in found)
    if 2 * known < whole:
        raise InvalidRequest(
            f"checkpoint '{state.source}' is another model's: {known:,} of the model's {whole:,} weights are found in it "
            "with the same values; give the checkpoint of this model's training, at its last step."
        )
    return SavedRun(state, _scaled(found, state), tuple(_notes(state, found, absent, known / max(whole, 1))))


@dataclass(frozen=True)
class _Candidate:
    """One saved parameter in one layout: value and gradients' squares, rows first."""

    name: str
    values: tuple[np.ndarray, ...]
    square: np.ndarray
    drift: float


_LAYOUTS: tuple[Callable[[np.ndarray], np.ndarray], ...] = (
    np.asarray,
    outputs_first,
    transposed_outputs_first,
    depthwise_outputs_first,
)


def _transposed(kernel: np.ndarray, groups: int) -> np.ndarray:
    """Convert torch's weight `(in, out / groups, *kernel)` of a transposed convolution to `(out, in / groups, *kernel)`."""
    inputs, outputs, *size = kernel.shape
    blocks = kernel.reshape(groups, inputs // groups, outputs, *size)
    return np.swapaxes(blocks, 1, 2).reshape(groups * outputs, inputs // groups, *size)


def _candidates(state: TrainingState, parameters: Mapping[str, Tensor]) -> Iterator[_Candidate]:
    """Every saved parameter with its values."""
    for name, saved in state.parameters.items():
        values = _values(saved, parameters)
        if values:
            yield _Candidate(name, values, saved.square, saved.drift)


def _values(saved: SavedParameter, parameters: Mapping[str, Tensor]) -> tuple[np.ndarray, ...]:
    """The values of a parameter, in the file or else in the caller's module."""
    if saved.values:
        return saved.values
    own = parameters.get(saved.name)
    fits = own is not None and tuple(own.shape) == saved.square.shape
    return (own.cpu().float().numpy(),) if own is not None and fits else ()


def _matched(layer: Layer, weight: np.ndarray, candidates: Sequence[_Candidate]) -> SavedWeight | None:
    """The saved parameter whose rows have the directions of this weight's; the nearest by name first."""
    named = sorted(candidates, key=lambda one: -_shared(layer.name, one.name))
    nearest: SavedWeight | None = None
    for one in named:
        for place, value in enumerate(one.values):
            for got, square in _forms(value, one.square, weight, layer.groups):
                moved = _difference(got, weight)
                if nearest is None or moved < nearest.moved:
                    nearest = SavedWeight(got, square * np.float32(1 - one.drift), moved, place > 0)
                if moved < SAME:
                    return nearest
    return nearest if nearest is not None and nearest.moved < NEAR else None


def _shared(layer: str, parameter: str) -> int:
    """How many parts of two dotted names are alike."""
    return len(set(layer.replace("/", ".").split(".")) & set(parameter.replace("/", ".").split(".")))


def _forms(value: np.ndarray, square: np.ndarray, weight: np.ndarray, groups: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """A parameter and its squares in every layout and block of rows that has the weight's shape; unlikely ones are left out."""
    layouts = _LAYOUTS[:2] if value.ndim < 3 else _LAYOUTS
    if value.ndim > 2 and len(value) % groups == 0:
        layouts = (*layouts, partial(_transposed, groups=groups))
    for layout in layouts:
        turned, squares = layout(value), layout(square)
        if turned.ndim == 2 and weight.ndim > 2 and turned.size == weight.size and len(turned) == len(weight):
            turned, squares = turned.reshape(weight.shape), squares.reshape(weight.shape)
        if turned.shape[1:] != weight.shape[1:] or len(turned) % len(weight):
            continue
        for start in range(0, len(turned), len(weight)):
            block = turned[start : start + len(weight)]
            if _difference(block[:1], weight[:1]) < NEAR or _difference(block[-1:], weight[-1:]) < NEAR:
                yield np.ascontiguousarray(block), np.ascontiguousarray(squares[start : start + len(weight)])


def _difference(saved: np.ndarray, weight: np.ndarray) -> float:
    """Relative distance of two weights of one shape after each row got the norm that it has in the second; 0 to about 1.4."""
    rows, own = saved.reshape(len(saved), -1).astype(np.float64), weight.reshape(len(weight), -1).astype(np.float64)
    if rows.shape[1] < 2:  # a single number has no direction
        return float(np.linalg.norm(rows - own) / max(np.linalg.norm(own), 1e-30))
    norms = np.linalg.norm(own, axis=1, keepdims=True) / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30)
    signs = np.where((rows * own).sum(1, keepdims=True) < 0, -1.0, 1.0)  # a normalisation's gain may be negative
    return float(np.linalg.norm(rows * norms * signs - own) / max(np.linalg.norm(own), 1e-30))


def _scaled(found: Mapping[str, SavedWeight], state: TrainingState) -> dict[str, SavedWeight]:
    """The mean squares as Fisher information: times the batch size, or in a unit of their own."""
    factor = float(state.batch_size) if state.nats else relative_scale((one.fisher, one.value) for one in found.values())
    return {name: SavedWeight(one.value, one.fisher * np.float32(factor), one.moved, one.averaged) for name, one in found.items()}


def _notes(state: TrainingState, found: Mapping[str, SavedWeight], absent: Sequence[str], share: float) -> Iterator[str]:
    """Sentences on the state's unit, on what was left out, and on weights that aren't the last ones."""
    what = f"the squares of gradients that {state.optimizer} kept"
    span = f", a mean over about {state.averaged:.0f} steps" if np.isfinite(state.averaged) and state.averaged > 1 else ""
    if state.nats:
        yield f"distortions are in nats; their scale is that of {what}{span} at batch size {state.batch_size}"
    elif state.relative:
        yield f"distortions are relative: {what} have a unit of their own"
    elif state.batch_size:
        yield f"distortions are relative: {what} go over about {max(state.averaged, 1):.0f} steps, too few for their scale"
    else:
        yield f"distortions are relative: the batch size of {what}{span} is unknown"
    if absent:
        names = ", ".join(absent[:NAMED]) + (f" and {len(absent) - NAMED} more" if len(absent) > NAMED else "")
        yield f"the checkpoint holds no squares of gradients for {names}: {share:.0%} of the weights are in it"
    if any(one.averaged for one in found.values()):
        yield "the model's weights are averaged ones of the checkpoint; the squares of gradients are those at its last weights"
    moved = max((one.moved for one in found.values()), default=0.0)
    if moved > SAME:
        yield f"the checkpoint's weights differ from the model's by up to {moved:.1%}: it is of another step of the run"
    yield from state.notes


def row_gain(mean: np.ndarray, weight: Tensor) -> np.ndarray:
    """What folding multiplied each output's weights by, `[out, 1, ...]`: the ratio of their norms."""
    rows = np.asarray(weight.detach().cpu().double()).reshape(mean.shape[0], -1)
    before = np.linalg.norm(mean.reshape(mean.shape[0], -1), axis=1)
    return (np.linalg.norm(rows, axis=1) / np.maximum(before, 1e-12)).reshape(-1, *[1] * (mean.ndim - 1))


def folded_fisher(fisher: np.ndarray, gain: np.ndarray, weight: Tensor) -> Tensor:
    """Fisher information of trained weights in the coordinates of the folded ones, on the weight's device.

    A row of zeros has no gain: its Fisher information is unknown, and counts as 0.
    """
    values = fisher / np.square(np.where(gain > 0, gain, np.inf))
    return torch.from_numpy(values.astype(np.float32)).to(weight.device)
