"""Which parameters of a checkpoint the states of its optimizers belong to, and which values those have."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dyncompress.recording.training_states.contents import Contents, OptimizerState, Weights
from dyncompress.recording.training_states.moments import Moment
from dyncompress.recording.training_states.order import Shapes, by_place, by_shape

UNORDERED = "files of safetensors don't keep the order of the model's parameters; give the model as a module of torch"
_WRAPPERS = ("module.", "_orig_mod.", "_forward_module.", "model.", "net.", "network.", "ema_model.", "shadow_params.")


@dataclass(frozen=True)
class Match:
    """Parameters that were found for the states of one optimizer.

    Attributes:
        moments: name -> second moment.
        values: name -> the parameter in every set of weights that has it.
        left: sentences on those that weren't found.
    """

    moments: Mapping[str, Moment]
    values: Mapping[str, Sequence[Tensor]]
    left: Sequence[str] = ()


@dataclass(frozen=True)
class _Candidate:
    """Parameters that may be those of an optimizer: name and shape in order, and values by the name."""

    parameters: Shapes
    values: Mapping[str, Sequence[Tensor]]
    path: str | None = None  # of a set of weights that weren't averaged
    ordered: bool = True


def matched(moments: Mapping[Any, Moment], optimizer: OptimizerState, contents: Contents, parameters: Shapes) -> Match:
    """The parameters of an optimizer: by the names in its state, else by their places, else by order and shape.

    Args:
        moments: key -> second moment of each parameter that has one, in the optimizer's order.
        optimizer: its state.
        contents: of the checkpoint.
        parameters: names and shapes of the model's own parameters; may be empty.
    """
    names = {
        key: name
        for values in optimizer.groups
        for key, name in zip(values["params"], values.get("param_names") or values["params"], strict=False)
        if isinstance(name, str)
    }
    if all(key in names for key in moments):
        shapes = [(names[key], tuple(moment.square.shape)) for key, moment in moments.items()]
        values = _values_of(shapes, contents.weights)
        return Match({names[key]: moment for key, moment in moments.items()}, values)
    best: list[tuple[_Candidate, dict[Any, str], list[str]]] = []
    for candidate in _candidates(contents.weights, parameters):
        found, left = _assigned(moments, optimizer, candidate)
        if not best or len(found) > len(best[0][1]):
            best = [(candidate, found, left)]
        elif found and len(found) == len(best[0][1]) and candidate.path is not None:
            best.append((candidate, found, left))
    if len(best) > 1 and len(contents.optimizers) > 1:
        best = [one for one in best if one[0].path and _whose(one[0].path) == _whose(optimizer.path)]
        if len(best) != 1:
            return Match({}, {}, ["several networks of one shape are left out: the file doesn't say whose each optimizer is"])
    if not best:
        return Match({}, {})
    candidate, found, left = best[0]
    kept = {name: moments[key] for key, name in found.items()}
    return Match(kept, {name: candidate.values.get(name, ()) for name in kept}, left)


def _assigned(
    moments: Mapping[Any, Moment], optimizer: OptimizerState, candidate: _Candidate
) -> tuple[dict[Any, str], list[str]]:
    """Key -> name of the parameter, and sentences on those that can't be told."""
    keys = list(optimizer.parameters())
    every = [(key, tuple(moments[key].square.shape) if key in moments else None) for _, key in keys]
    one_group = len({group for group, _ in keys}) == 1
    if candidate.ordered and one_group and (placed := by_place(every, candidate.parameters)):
        return placed, []
    states = [(key, shape, group) for (key, shape), (group, _) in zip(every, keys, strict=True) if shape and len(shape) > 1]
    counts = Counter(shape for _, shape, _ in states)
    unsure = [] if candidate.ordered else [shape for shape, count in counts.items() if count > 1]
    found, left = by_shape([state for state in states if state[1] not in unsure], candidate.parameters)
    return found, [*(f"parameters of shape {list(shape)} are left out: {UNORDERED}" for shape in unsure), *left]


def _candidates(sets: Sequence[Weights], parameters: Shapes) -> list[_Candidate]:
    """Each set of weights, all that weren't averaged, and the model's own parameters."""
    shared = Counter(plain_name(name) for weights in sets if not weights.averaged for name in weights.tensors)
    found = []
    places = {plain_name(name): place for place, (name, _) in enumerate(parameters)}
    for weights in (_in_order(one, places) for one in sets):
        several = not weights.averaged and any(shared[plain_name(name)] > 1 for name in weights.tensors)
        labels = {name: f"{weights.path}.{name}" if several else name for name in weights.tensors}
        others = _by_plain_name(other for other in sets if other.averaged != weights.averaged)
        values = {
            labels[name]: [value, *(o for o in others.get(plain_name(name), ()) if o.shape == value.shape)]
            for name, value in weights.tensors.items()
        }
        shapes = [(labels[name], tuple(value.shape)) for name, value in weights.tensors.items()]
        found.append(_Candidate(shapes, values, None if weights.averaged else weights.path, weights.ordered))
    main = [one for one, weights in zip(found, sets, strict=True) if not weights.averaged]
    if len(main) > 1:
        joined = {name: values for one in main for name, values in one.values.items()}
        found.append(
            _Candidate([pair for one in main for pair in one.parameters], joined, None, all(one.ordered for one in main))
        )
    if parameters:
        found.append(_Candidate(parameters, _values_of(parameters, sets)))
    return found


def _in_order(weights: Weights, places: Mapping[str, int]) -> Weights:
    """A set of weights whose order is unknown in that of the model's own parameters, if it has the same ones."""
    if weights.ordered or not all(plain_name(name) in places for name in weights.tensors):
        return weights
    in_order = sorted(weights.tensors.items(), key=lambda item: places[plain_name(item[0])])
    return Weights(weights.path, dict(in_order))


def _by_plain_name(sets: Iterable[Weights]) -> dict[str, list[Tensor]]:
    """The tensors of several sets of weights, by their names without prefixes."""
    found: dict[str, list[Tensor]] = {}
    for weights in sets:
        for name, value in weights.tensors.items():
            found.setdefault(plain_name(name), []).append(value)
    return found


def _values_of(parameters: Shapes, sets: Sequence[Weights]) -> dict[str, list[Tensor]]:
    """Each parameter in the first set of weights that has it, and in those that were averaged."""
    last, averaged = (_by_plain_name(one for one in sets if one.averaged == whether) for whether in (False, True))
    found = {}
    for name, shape in parameters:
        own, means = ([v for v in one.get(plain_name(name), ()) if tuple(v.shape) == tuple(shape)] for one in (last, averaged))
        found[name] = [*own[:1], *means]
    return found


def _whose(path: str) -> str:
    """What a place in a checkpoint says beside that it holds weights or an optimizer: `G` of `netG`, `optim_G` and the like."""
    return re.sub(r"network|net|model|optimizer|optim|opt|states?|dict|weights|[._-]", "", path.lower())


def plain_name(name: str) -> str:
    """A parameter's name without the prefixes of wrappers.

    Example:
        >>> plain_name("module._orig_mod.encoder.weight")
        'encoder.weight'
    """
    while name.startswith(_WRAPPERS):
        name = name.partition(".")[2]
    return name
