"""Training states from what optax's gradient transformations keep, by the names of their states; JAX only walks the trees."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dyncompress.errors import InvalidRequest
from dyncompress.recording.training_states.assembly import About, assembled
from dyncompress.recording.training_states.moments import Moment, product, second_moment
from dyncompress.types import TrainingState

B1, B2, DECAY, MOMENTUM = 0.9, 0.999, 0.9, 0.9  # optax's defaults, where the state doesn't hold them
START = 0.1  # of optax's Adagrad
_SQUARES = {  # class of a state -> its squares; those of momentum count where there is nothing else
    "ScaleByAdamState": "nu",
    "ScaleByAmsgradState": "nu",
    "ScaleByBeliefState": "nu",
    "ScaleByRmsState": "nu",
    "ScaleByRmsWithCountState": "nu",
    "ScaleByRStdDevState": "nu",
    "ScaleByRStdDevWithCountState": "nu",
    "ScaleByAdaDeltaState": "e_g",
    "ScaleByRssState": "sum_of_squares",
    "FactoredState": "v",
    "TraceState": "trace",
}
_NAMES = {"ScaleByRss": "Adagrad", "Factored": "Adafactor", "Trace": "SGD", "ScaleByAdaDelta": "Adadelta"}


def optax_state(params: Any, opt_state: Any, batch_size: int, steps: int, decay: float) -> TrainingState:
    """The training state of a run with optax.

    Adam and AMSGrad, AdaBelief, RMSprop in both forms, Adadelta, Adagrad, Adafactor and the trace of SGD are read, in chains,
    masks, partitions, `MultiSteps` and `inject_hyperparams`. Optax's Adamax keeps its maximum in the class of Adam's state, from
    which it can't be told: don't give it.

    Args:
        params: a tree of parameters.
        opt_state: the state after training.
        batch_size: examples of one step; 0: unknown.
        steps: optimizer steps, where no state counts them; 0: unknown.
        decay: of the mean squares (Adam's b2, RMSprop's decay, SGD's momentum), where no state holds it; nan: optax's default.

    Raises:
        InvalidRequest: the state holds no squares of gradients, or those of other parameters.
    """
    weights = dict(_leaves(params))
    if not weights:
        raise InvalidRequest("the parameters of the optax state hold no arrays; give (params, opt_state).")
    nodes = list(_nodes(opt_state, {}))
    steps = steps or max((_count(node) for node, _ in nodes), default=0) or _any_count(opt_state)
    nodes = [(node, hyper) for node, hyper in nodes if type(node).__name__ in _SQUARES]
    nodes.sort(key=lambda pair: type(pair[0]).__name__ == "TraceState")
    moments: dict[str, Moment] = {}
    used = []
    for node, hyper in nodes:
        found = dict(_moments(node, {**hyper, **({"given": decay} if np.isfinite(decay) else {})}, weights, steps))
        used += [node] if found.keys() - moments.keys() else []
        moments = {**found, **moments}
    if not moments:
        raise InvalidRequest(
            "the optax state holds no squares of gradients of these parameters; give (params, opt_state) of a run with adam, "
            "rmsprop, adagrad, adafactor, or sgd with momentum."
        )
    kind = type(used[0]).__name__.removesuffix("State").removesuffix("WithCount")
    known = np.isfinite(decay) or any({"b2", "decay", "momentum"} & hyper.keys() for _, hyper in nodes)
    note = "optax's state doesn't hold the decay of its means, which is taken to be the default one"
    about = About(
        "the optax state",
        _NAMES.get(kind, "RMSprop" if kind.startswith("ScaleByR") else "Adam"),
        steps,
        batch_size,
        notes=() if known or kind in ("ScaleByRss", "Factored") else (note,),
    )
    return assembled(moments, {name: [weights[name]] for name in moments}, about)


def _leaves(tree: Any) -> Iterator[tuple[str, Tensor]]:
    """Dotted path and float32 copy of every array of floats in a tree."""
    import jax

    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        array = np.asarray(leaf) if hasattr(leaf, "shape") else np.zeros((), np.int8)
        if array.dtype.kind in "fV":  # V: bfloat16
            name = ".".join(str(getattr(part, "key", getattr(part, "name", getattr(part, "idx", part)))) for part in path)
            yield name, torch.from_numpy(np.array(array, dtype=np.float32))


def _nodes(tree: Any, hyper: Mapping[str, Any]) -> Iterator[tuple[Any, Mapping[str, Any]]]:
    """Every state that keeps squares, with the hyper-parameters that were injected above it."""
    import jax

    inner = jax.tree_util.tree_leaves(
        tree, is_leaf=lambda node: type(node).__name__ in _SQUARES or (hasattr(node, "hyperparams") and node is not tree)
    )
    if hasattr(tree, "hyperparams"):
        yield from _nodes(tree.inner_state, {**hyper, **tree.hyperparams})
        return
    for node in inner:
        if hasattr(node, "hyperparams"):
            yield from _nodes(node, hyper)
        elif type(node).__name__ in _SQUARES:
            yield node, hyper


def _any_count(tree: Any) -> int:
    """The largest step count of any state in a tree, such as that of a schedule; 0 if there is none."""
    import jax

    paths = jax.tree_util.tree_flatten_with_path(tree)[0]
    counts = [int(leaf) for path, leaf in paths if getattr(path[-1], "name", "") in ("count", "gradient_step")]
    return max(counts, default=0)


def _count(node: Any) -> int:
    """The steps that a state counts; 0 if it doesn't."""
    count = getattr(node, "count", 0)
    return 0 if callable(count) else int(np.asarray(count).max())  # a tuple's own method


def _moments(node: Any, hyper: Mapping[str, Any], weights: Mapping[str, Tensor], steps: int) -> Iterator[tuple[str, Moment]]:
    """Parameter -> second moment, of those that a state holds."""
    kind = type(node).__name__
    if kind == "FactoredState":
        yield from _factored(node, weights)
        return
    first = dict(_leaves(node.mu)) if hasattr(node, "mu") and kind != "ScaleByBeliefState" else {}
    for name, second in _leaves(getattr(node, _SQUARES[kind])):
        if name not in weights or weights[name].shape != second.shape:
            continue
        state = {"step": _count(node) or steps}
        if kind in ("ScaleByAdamState", "ScaleByAmsgradState", "ScaleByBeliefState"):
            state |= {"exp_avg_sq": second, "exp_avg": first.get(name)}
            group = {"betas": (float(hyper.get("b1", B1)), float(hyper.get("given", hyper.get("b2", B2))))}
        elif kind == "TraceState":
            state = {"momentum_buffer": second}
            group = {"momentum": float(hyper.get("given", hyper.get("momentum", MOMENTUM)))}
        elif kind == "ScaleByRssState":
            state |= {"sum": second}
            group = {"initial_accumulator_value": START if float(second.min()) >= np.float32(START) else 0.0}
        else:
            state |= {"square_avg": second} | ({"grad_avg": first[name]} if name in first else {})
            group = {"alpha": float(hyper.get("given", hyper.get("decay", hyper.get("rho", DECAY))))}
        yield name, second_moment(state, group)


def _factored(node: Any, weights: Mapping[str, Tensor]) -> Iterator[tuple[str, Moment]]:
    """Adafactor's: the two longest axes of large parameters are factored, others are kept whole."""
    rows, columns, steps = dict(_leaves(node.v_row)), dict(_leaves(node.v_col)), _count(node)
    averaged = min(2 * steps**0.8 - 1, steps) if steps else float("nan")
    for name, whole in _leaves(node.v):
        shape = weights[name].shape if name in weights else None
        if shape == whole.shape:
            yield name, Moment(whole, averaged=averaged)
        elif shape is not None and rows[name].ndim == columns[name].ndim == len(shape) - 1:
            second, longest = (int(axis) for axis in np.argsort(shape)[-2:])
            square = product(rows[name].unsqueeze(longest), columns[name].unsqueeze(second), second)
            yield name, Moment(square, averaged=averaged)
