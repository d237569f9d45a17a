"""Layers of lower rank: each fitted on its inputs in the partly factorised network, then split into two.

Front to back: least squares gives the weight that computes the original's output from the inputs that the layer gets now, its
best factors in the metric of those inputs take its place, and its bias takes up the mean. Layers that can't be taken in order
are split on the original's inputs; without data, by their weights alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from dyncompress.pipeline.application.sequential import centred, ridge
from dyncompress.pipeline.task import Task
from dyncompress.pruning.low_rank import factor_product, factors
from dyncompress.types import (
    INNER,
    OUTER,
    Array,
    Bias,
    Choice,
    InputMoment,
    LayerwiseCalibration,
    LowRank,
    Observation,
    Plan,
    ResidualMoments,
    Weight,
)

METHOD = "low rank"


def split_layers(task: Task, plan: Plan) -> tuple[Task, Plan, dict[str, Choice]]:
    """Put two layers in place of each whose choice has a rank.

    Args:
        task: its model is split.
        plan: its layers are the model's.

    Returns:
        the task with the smaller model, the plan for its layers (both factors at the layer's width), and the realised choices of
        the split layers.
    """
    asked = {name: choice for name, choice in plan.asked.items() if choice.rank is not None}
    if not asked:
        return task, plan, {}
    fit = _Fit(asked, {name: o for name, o in task.observe((Weight(), Bias())) if name in asked})
    products: dict[str, tuple[Array, Array]] = {}
    if task.calibrated and isinstance(task.model, LayerwiseCalibration):
        products = task.model.in_sequence(task.batches, list(asked), fit)
    rest = set(asked) - set(products)
    for name, observation in task.observe((Weight(), InputMoment())) if rest else ():
        if name in rest:
            fit.take(name, observation[Weight()], observation[InputMoment()][0] if InputMoment() in observation else None)
    edits = [LowRank(name, *fit.pairs[name], fit.bias(name, products[name][1] if name in products else None)) for name in asked]
    halves = {name + end: replace(choice, rank=None) for name, choice in asked.items() for end in (INNER, OUTER)}
    left = {name: choice for name, choice in plan.asked.items() if name not in asked}
    realised = {name: replace(choice, rank=len(fit.pairs[name][0]), method=METHOD) for name, choice in asked.items()}
    return task.with_model(task.model.edited(edits)), replace(plan, asked={**left, **halves}), realised


@dataclass
class _Fit:
    """Fits and factorises one layer after the other.

    Attributes:
        asked: layer -> its choice.
        seen: layer -> its weight and bias.
        pairs: layer -> its factors, once computed.
    """

    asked: Mapping[str, Choice]
    seen: Mapping[str, Observation]
    pairs: dict[str, tuple[Array, Array]] = field(default_factory=dict)

    def __call__(self, layer: str, moments: ResidualMoments) -> Array:
        """The product of the layer's factors, in its shape."""
        moment, cross = centred(moments)
        weight = self.seen[layer][Weight()]
        return self.take(layer, weight + ridge(moment, cross).reshape(weight.shape).to(weight), moment[0])

    def take(self, name: str, weight: Array, moment: Array | None) -> Array:
        """Factorise a weight in the metric of a moment `[K, K]`, and keep the factors."""
        rank = min(int(self.asked[name].rank or 1), *weight.flatten(1).shape)
        ((inner, outer),) = factors(weight, moment, (rank,))
        self.pairs[name] = inner, outer
        return factor_product(inner, outer)

    def bias(self, name: str, shift: Array | None) -> Array | None:
        """The layer's bias with a shift of the output added."""
        bias = self.seen[name][Bias()]
        return bias if shift is None else shift if bias is None else bias + shift
