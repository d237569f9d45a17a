"""Probes: do something to one unit, match the moments, and see how far the outputs move on calibration data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from dyncompress.divergence import divergence
from dyncompress.models.torch import TorchModel
from dyncompress.opening import Opened, first_examples, outputs
from dyncompress.options import Errors
from dyncompress.progress import Step
from dyncompress.realisation import channels_removed, pruned_weight, rounded_weight
from dyncompress.recipe import Recipe
from dyncompress.types import CHANNELS, InputMoment, Need, Option, SetWeight, Weight

EXAMPLES = 256


def layer_rates(model: Opened, recipe: Recipe, errors: Mapping[str, Sequence[Errors]], step: Step) -> dict[str, float]:
    """Divergence for a unit of relative error, by layer: its boldest choice alone, moments matched."""
    probe, found = Probe(model), {}
    needs: tuple[Need, ...] = (Weight(), InputMoment())
    for name, observation in model.observe(needs):
        if name not in errors:
            continue
        step.advance()
        bold = max(errors[name], key=lambda e: e.pruning + e.rounding)
        if bold.pruning + bold.rounding == 0:
            continue
        pruned = pruned_weight(observation, bold.choice, recipe)
        weight, _ = rounded_weight(observation, pruned, bold.choice, recipe)
        found[name] = probe(model.door.edited([SetWeight(name, weight)])) / (bold.pruning + bold.rounding)
    return found


def channels_probed(model: Opened, table: Mapping[str, Sequence[Option]], step: Step) -> dict[str, tuple[Option, ...]]:
    """The channel units of a table with their harms corrected by two probes each: the smallest and the boldest removal.

    Predicted from the reader's output error, the harm is right in form but not in size: Fisher information takes the errors at
    different positions for independent, and in front of an average over positions they add up (a factor of 60 was seen).
    """
    probe, found = Probe(model), {}
    for unit, lines in table.items():
        if not unit.startswith(CHANNELS):
            continue
        step.advance()
        cuts = [i for i, line in enumerate(lines) if line.choice.keep is not None]
        measured = {i: probe(channels_removed(model, {unit: lines[i].choice})[0].door) for i in {*cuts[:1], *cuts[-1:]}}
        harm = corrected([line.distortion for line in lines], measured)
        found[unit] = tuple(_with_harm(line, h) for line, h in zip(lines, harm, strict=True))
    return found


class Probe:
    """Divergence of an edited model from the original on a few calibration examples, moments matched."""

    def __init__(self, model: Opened) -> None:
        """Run the original once."""
        self.original, self.batches = model.door, first_examples(model.batches, EXAMPLES)
        self.before = outputs(self.original, self.batches)[0]

    def __call__(self, edited: TorchModel) -> float:
        """The divergence, in nats for scores."""
        matched, _ = edited.matched(self.original, self.batches)
        return divergence(self.before, outputs(matched, self.batches)[0])


def corrected(predicted: Sequence[float], measured: Mapping[int, float]) -> list[float]:
    """Predictions times the ratio measured / predicted, interpolated between the measured ones, all in logarithms.

    Example:
        >>> [round(h, 6) for h in corrected([0.0, 1.0, 10.0, 100.0], {1: 2.0, 3: 800.0})]
        [0.0, 2.0, 40.0, 800.0]
    """
    known = sorted((predicted[i], value / predicted[i]) for i, value in measured.items() if predicted[i] > 0 and value > 0)
    if not known:
        return list(predicted)
    at, ratio = np.log([p for p, _ in known]), np.log([r for _, r in known])
    return [p * float(np.exp(np.interp(np.log(p), at, ratio))) if p > 0 else p for p in predicted]


def _with_harm(line: Option, harm: float) -> Option:
    """The same line with another expected harm."""
    return Option(line.choice, line.bytes, line.macs, harm, line.stderr)
