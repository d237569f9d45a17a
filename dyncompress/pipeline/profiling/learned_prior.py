"""Log sensitivities from theory: a recipe's coefficients, or a prior learned on other networks and a few probes of this one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dyncompress.allocation import distortion
from dyncompress.allocation.prior import posterior
from dyncompress.errors import InvalidRequest
from dyncompress.pipeline.profiling import probes
from dyncompress.pipeline.profiling.candidates import Errors
from dyncompress.pipeline.task import Task
from dyncompress.recipe.recipe import Recipe
from dyncompress.types import Estimate
from dyncompress.types.progress import Step

Estimates = Mapping[str, Mapping[str, Estimate]]


@dataclass(frozen=True)
class Sensitivities:
    """Log sensitivities of the layers, and where they come from.

    Attributes:
        log: `pruning` and `quantization` -> layer -> log sensitivity; a layer without one counts as 0.
        provenance: layer -> the shares that theory and probes contributed, for the reader of the plan.
    """

    log: Mapping[str, Mapping[str, float]]
    provenance: Mapping[str, str]


def by_coefficients(estimates: Estimates, recipe: Recipe) -> Sensitivities:
    """Log sensitivities from the recipe's own coefficients of z-scores."""
    weights = {kind: recipe.coefficients.get(kind, {}) for kind in distortion.KINDS}
    return Sensitivities({kind: distortion.log_sensitivity(estimates, measures) for kind, measures in weights.items()}, {})


def by_prior(
    task: Task,
    estimates: Estimates,
    errors: Mapping[str, Sequence[Errors]],
    base: str,
    step: Step,
) -> Sensitivities:
    """The posterior of a learned prior, given a few probes.

    Args:
        task: its model is probed where there are calibration data and the recipe asks for probes.
        estimates: measure -> layer -> estimate.
        errors: the errors of every choice of every layer that the plan will choose for.
        base: what the sensitivity multiplies: `error`, relative squared error of the weight, or `fisher`, the distortion that
            Fisher information predicts.
        step: advances with every probed layer.

    Raises:
        InvalidRequest: the prior lacks a kind of choice that the recipe makes, and distortions would have two units.
    """
    recipe = task.recipe
    chosen = [layer for layer in task.model.layers() if layer.name in errors]
    names = [layer.name for layer in chosen]
    known = {**estimates, **distortion.shapes(chosen)}
    log: dict[str, dict[str, float]] = {}
    provenance: dict[str, list[str]] = {name: [] for name in names}
    largest = sorted(chosen, key=lambda layer: -layer.weights)
    probed = [layer.name for layer in largest[: round(recipe.probes * len(chosen))]] if task.calibrated else []
    for kind in distortion.KINDS:
        bases = recipe.priors.get(kind, {})
        if not any(getattr(e, probes.PARTS[kind]) > 0 for row in errors.values() for e in row):
            continue
        if base not in bases:
            if base == "error":
                raise InvalidRequest(
                    f"recipe '{recipe.name}': its prior knows no {kind} on '{base}', which its choices need; take another prior."
                )
            continue
        rates = probes.kind_rates(task, {n: errors[n] for n in probed}, kind, base, step)
        scores = distortion.z_scores(known, names, bases[base].measures)
        estimate = posterior(bases[base], scores, {names.index(name): rate for name, rate in rates.items()})
        log[kind] = dict(zip(names, estimate.log.tolist(), strict=True))
        for name, share in zip(names, estimate.theory, strict=True):
            probe = f", its probe {100 - 100 * share:.0f} %" if name in rates else ""
            provenance[name].append(f"{kind}: theory {100 * share:.0f} %{probe}")
    return Sensitivities(log, {name: "; ".join(parts) for name, parts in provenance.items()})
