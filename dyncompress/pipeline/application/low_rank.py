"""Layers of lower rank: each fitted on the inputs that the factors before leave it, then split into two.

Front to back: least squares gives the weight that computes the original's output from the inputs that the layer gets now, its
best factors in the metric of those inputs take its place, and its bias takes up the mean (`torch_sequence`). Layers that can't be
taken in order are split on the original's inputs; without data, by their weights alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from dyncompress.models.torch.low_rank import INNER, OUTER
from dyncompress.models.torch.sequence import ResidualMoments, in_sequence
from dyncompress.pipeline.application.sequential import centred, ridge
from dyncompress.pipeline.task import Opened
from dyncompress.pruning.low_rank import composed, factors
from dyncompress.types import Array, Bias, Choice, InputMoment, LowRank, Observation, Plan, Weight

METHOD = "low rank"


def split(model: Opened, plan: Plan) -> tuple[Opened, Plan, dict[str, Choice]]:
    """Put two layers in place of each whose choice has a rank.

    Args:
        model: opened.
        plan: its layers are the model's.

    Returns:
        the model, the plan for its layers (both factors at the layer's width), and the realised choices of the split layers.
    """
    asked = {name: choice for name, choice in plan.asked.items() if choice.rank is not None}
    if not asked:
        return model, plan, {}
    fit = _Fit(asked, {name: o for name, o in model.observe((Weight(), Bias())) if name in asked})
    found = in_sequence(model.door, model.batches, list(asked), fit) if model.calibrated else {}
    rest = set(asked) - set(found)
    for name, observation in model.observe((Weight(), InputMoment())) if rest else ():
        if name in rest:
            fit.take(name, observation[Weight()], observation[InputMoment()][0] if InputMoment() in observation else None)
    edits = [LowRank(name, *fit.pairs[name], fit.bias(name, found[name][1] if name in found else None)) for name in asked]
    halves = {name + end: replace(choice, rank=None) for name, choice in asked.items() for end in (INNER, OUTER)}
    left = {name: choice for name, choice in plan.asked.items() if name not in asked}
    realised = {name: replace(choice, rank=len(fit.pairs[name][0]), method=METHOD) for name, choice in asked.items()}
    narrow = replace(model, door=model.door.edited(edits), kept={})
    return narrow, replace(plan, asked={**left, **halves}), realised


@dataclass
class _Fit:
    """Least squares and factors for one layer after the other.

    Attributes:
        asked: layer -> its choice.
        seen: layer -> its weight and bias.
        pairs: layer -> its factors, once found.
    """

    asked: Mapping[str, Choice]
    seen: Mapping[str, Observation]
    pairs: dict[str, tuple[Array, Array]] = field(default_factory=dict)

    def __call__(self, name: str, wanted: ResidualMoments) -> Array:
        """The product of the layer's factors, in its shape."""
        moment, lack = centred(wanted)
        weight = self.seen[name][Weight()]
        return self.take(name, weight + ridge(moment, lack).reshape(weight.shape).to(weight), moment[0])

    def take(self, name: str, weight: Array, moment: Array | None) -> Array:
        """Factorise a weight in the metric of a moment `[K, K]`, and keep the factors."""
        rank = min(int(self.asked[name].rank or 1), *weight.flatten(1).shape)
        ((inner, outer),) = factors(weight, moment, (rank,))
        self.pairs[name] = inner, outer
        return composed(inner, outer)

    def bias(self, name: str, shift: Array | None) -> Array | None:
        """The layer's bias with a shift of the output added."""
        bias = self.seen[name][Bias()]
        return bias if shift is None else shift if bias is None else bias + shift
