"""Sensitivity by probing: edit one unit, match the moments, and measure the divergence on calibration data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from dyncompress.measures.divergence import divergence, per_example
from dyncompress.pipeline.application.round_layers import pruned_weight, rounded_weight
from dyncompress.pipeline.application.structured_pruning import restructure, structural_choices
from dyncompress.pipeline.capabilities import match_moments
from dyncompress.pipeline.observed_model import ObservedModel, first_examples, outputs
from dyncompress.pipeline.profiling.candidates import Errors
from dyncompress.pipeline.task import Task
from dyncompress.types import CHANNELS, Choice, InputMoment, Model, Need, Observation, Option, SetWeight, Weight
from dyncompress.types.progress import Step

EXAMPLES = 256
MILD = 0.2  # relative error: a probe that stands for all choices of a layer takes the boldest one within
SMALL = 0.05  # of the error: what the other kind of choice may add to a probe of one kind
LEAST = 1e-9  # nats: a divergence below can't be distinguished from zero
PARTS = {"pruning": "pruning", "quantization": "rounding"}  # the error that a kind of choice makes
FEW = 128  # examples of a structural probe
REACH = 2  # layers after a probed change that are refitted: the next block makes up for most of it


def layer_rates(task: Task, errors: Mapping[str, Sequence[Errors]], step: Step) -> dict[str, float]:
    """Divergence for a unit of relative error, by layer: its boldest choice alone, moments matched."""
    probe, rates = Probe(task.source), {}
    needs: tuple[Need, ...] = (Weight(), InputMoment())
    for name, observation in task.observe(needs):
        if name not in errors:
            continue
        step.advance()
        bold = max((e for e in errors[name] if e.choice.rank is None), key=lambda e: e.pruning + e.rounding)
        if bold.pruning + bold.rounding == 0:
            continue
        rates[name] = probe(_alone(task, observation, bold.choice)) / (bold.pruning + bold.rounding)
    return rates


def kind_rates(
    task: Task, errors: Mapping[str, Sequence[Errors]], kind: str, base: str, step: Step
) -> dict[str, tuple[float, float]]:
    """Layer -> (log of the divergence over the predicted value, its variance), by one choice of this kind alone.

    Args:
        task: with calibration data; its recipe's pruner and quantizer carry the choices out.
        errors: the errors of the layers to be probed.
        kind: `pruning` or `quantization`.
        base: the prediction: `error`, the relative error itself, or `fisher`, the distortion by Fisher information.
        step: advances with every layer.
    """
    own, other = PARTS[kind], next(part for part in PARTS.values() if part != PARTS[kind])
    probe, rates = Probe(task.source), {}
    for name, observation in task.observe((Weight(), InputMoment())) if errors else ():
        pure = [e for e in errors.get(name, ()) if e.choice.rank is None and getattr(e, other) <= SMALL * getattr(e, own) > 0]
        if not pure:
            continue
        step.advance()
        mild = [e for e in pure if getattr(e, own) <= MILD]
        one = max(mild, key=lambda e: getattr(e, own)) if mild else min(pure, key=lambda e: getattr(e, own))
        moved = probe.examples(_alone(task, observation, one.choice))
        mean = max(float(moved.mean()), LEAST)
        predicted = one.output if base == "fisher" else getattr(one, own)
        if predicted > 0:  # never where it is nan
            rates[name] = float(np.log(mean / predicted)), float(moved.var() / len(moved) / mean**2)
    return rates


def _alone(task: Task, observation: Observation, choice: Choice) -> Model:
    """The model with this layer alone pruned and rounded."""
    pruned = pruned_weight(observation, choice, task.recipe.pruner)
    weight, _ = rounded_weight(observation, pruned, choice, task.recipe.quantizer)
    return task.model.edited([SetWeight(observation.layer.name, weight)])


def probe_structure(task: Task, table: Mapping[str, Sequence[Option]], step: Step) -> dict[str, tuple[Option, ...]]:
    """Channel and block units of a table with their distortions corrected by probes.

    A channel group is probed at its smallest and its boldest removal, a block by dropping it; the layers nearby are refitted.
    The distortion predicted from the reader's output error has the right shape but the wrong scale: Fisher information treats
    errors at different positions as independent, and they add up in front of an average over positions (by a factor of 60 in one
    network).
    """
    probe, corrected_table = Probe(task.source, FEW), {}
    few = replace(task, source=replace(task.source.with_model(task.model), batches=probe.batches))

    def probed_distortion(unit: str, choice: Choice) -> float:
        small, _ = restructure(few, {unit: choice}, REACH)
        return divergence(probe.before, outputs(small.model, probe.batches)[0])  # refitted outputs have their moments

    for unit, lines in table.items():
        step.advance()
        cuts = [i for i, line in enumerate(lines) if structural_choices({unit: line.choice})]
        measured = {i: probed_distortion(unit, lines[i].choice) for i in {*cuts[:1], *cuts[-1:]}}
        distortions = [measured.get(i, line.distortion) for i, line in enumerate(lines)]
        if unit.startswith(CHANNELS):
            distortions = correct_predictions([line.distortion for line in lines], measured)
        corrected_table[unit] = tuple(replace(line, distortion=value) for line, value in zip(lines, distortions, strict=True))
    return corrected_table


class Probe:
    """Divergence of an edited model from the original on a few calibration examples; moments are matched where that lowers it."""

    def __init__(self, source: ObservedModel, examples: int = EXAMPLES) -> None:
        """Run the original once."""
        self.original, self.batches = source.model, first_examples(source.batches, examples)
        self.before = outputs(self.original, self.batches)[0]

    def __call__(self, edited: Model) -> float:
        """The divergence, in nats for scores."""
        return float(self.examples(edited).mean())

    def examples(self, edited: Model) -> np.ndarray:
        """The divergence on each example, `[n]`."""
        alike, _ = match_moments(edited, self.original, self.batches)
        moved = [per_example(self.before, outputs(model, self.batches)[0]) for model in (edited, alike)]
        return min(moved, key=lambda examples: float(examples.mean()))


def correct_predictions(predicted: Sequence[float], measured: Mapping[int, float]) -> list[float]:
    """Predictions times the ratio measured / predicted, interpolated between the measured ones, all in logarithms.

    Example:
        >>> [round(h, 6) for h in correct_predictions([0.0, 1.0, 10.0, 100.0], {1: 2.0, 3: 800.0})]
        [0.0, 2.0, 40.0, 800.0]
    """
    known = sorted((predicted[i], value / predicted[i]) for i, value in measured.items() if predicted[i] > 0 and value > 0)
    if not known:
        return list(predicted)
    at, ratio = np.log([p for p, _ in known]), np.log([r for _, r in known])
    return [p * float(np.exp(np.interp(np.log(p), at, ratio))) if p > 0 else p for p in predicted]
