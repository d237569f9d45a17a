"""The hall: the verbs. A model is measured, a plan is allocated and applied, the ONNX file is written, and that file is certified."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dyncompress import profiling, promises, realisation
from dyncompress.allocation.cost import solved
from dyncompress.divergence import divergence
from dyncompress.errors import Infeasible, InvalidRequest, Unsupported
from dyncompress.examples import as_batches, as_held_out, digests
from dyncompress.models.torch import TorchModel, open_model, preprocessing_warning
from dyncompress.options import with_method
from dyncompress.progress import SILENT, Progress
from dyncompress.recipe import Recipe, check_plan, load_recipe, load_target
from dyncompress.shipment import shipped_file
from dyncompress.types import Batch, Budget, Certificate, Compressed, OnnxFile, Plan, Profile, SetWeight, Target

SEAL_BYTES = 1_500  # reserve for the seal in the file's budget
STAGE_EXAMPLES = 512


def measure(
    model: Any,
    recipe: str | Path | Recipe,
    *,
    target: str | Path | Target,
    calibration: Any = None,
    trajectory: Any = None,
    example: Any = None,
    progress: Progress = SILENT,
) -> Profile:
    """Observe the layers, and tabulate what every choice costs and harms.

    Args:
        model: a torch module; it is not changed.
        recipe, target: a shipped name, the path of a TOML file, or the value.
        calibration: any iterable of batches (tensor, tuple, dict; labels ignored). Recipes on weights alone need none.
        trajectory: a recorded trajectory or its `.npz`; only some recipes read it.
        example: one batch of inputs, where there is no calibration data.
        progress: who is told of phases.

    Returns:
        the profile; any number of budgets can be allocated from it.
    """
    recipe, target = load_recipe(recipe), load_target(target)
    opened = _open(model, recipe, calibration, example)
    recorded = promises.load_trajectory_of(trajectory, opened.door.digest()) if trajectory is not None else None
    setting = profiling.Setting(opened.door, recipe, target, opened.batches, opened.calibrated, recorded)
    profile = profiling.profile_of(setting, progress)
    return replace(profile, notes=profile.notes + opened.notes)


def allocate(profile: Profile, budget: Budget | None = None, *, recipe: str | Path | Recipe | None = None) -> Plan:
    """Choose one option for every unit: the least expected harm within the budget.

    Raises:
        Infeasible: the smallest plan is above the budget.
    """
    recipe = load_recipe(recipe or profile.recipe)
    budget = budget or recipe.budget
    if budget.seconds is not None:
        raise InvalidRequest("budget.seconds needs a measured latency table of the target, which none ships yet; set budget.macs instead.")
    limits = []
    if budget.bytes is not None:
        whole = budget.bytes if budget.bytes >= 1 else budget.bytes * profile.float_bytes
        limits.append(("bytes", whole - profile.fixed_bytes - SEAL_BYTES))
    if budget.macs is not None:
        whole = budget.macs if budget.macs >= 1 else budget.macs * profile.macs
        limits.append(("macs", whole - sum(layer.macs for layer in profile.layers if layer.name not in profile.table)))
    return solved(profile, limits, recipe.allocator, profiling.share_left_alone(profile.layers, profile.reasons))


def apply(
    model: Any,
    plan: Plan,
    *,
    recipe: str | Path | Recipe | None = None,
    target: str | Path | Target | None = None,
    calibration: Any = None,
    example: Any = None,
    progress: Progress = SILENT,
) -> Compressed:
    """Carry out a plan on a copy of the model: remove channels and refit, prune, round, match moments.

    Returns:
        the compressed model; `.module` is a torch model again.
    """
    recipe, target = load_recipe(recipe or plan.recipe), load_target(target or plan.target)
    opened = _open(model, recipe, calibration, example)
    original, batches = opened.door, opened.batches
    check_plan(plan, original.layers())
    shown = profiling.first_examples(batches, STAGE_EXAMPLES)
    before, stages = profiling.outputs(original, shown), {}
    with progress.phase("remove channels, prune and round"):
        groups = {group.name: group for group in original.channel_groups()}
        narrow, channels = realisation.channels_removed(original, groups, plan, batches)
        pruned, rounded, encodings, layers = realisation.layers_compressed(narrow, plan, recipe, target, batches)
    stages["prune"] = divergence(before, profiling.outputs(pruned, shown))
    stages["weights"] = divergence(before, profiling.outputs(rounded, shown))
    final = rounded
    if recipe.match and opened.calibrated:
        with progress.phase("match moments"):
            final, gains = rounded.matched(original, batches)
            encodings = realisation.rescaled(encodings, gains)
            final = final.edited([SetWeight(name, realisation.decode(e)) for name, e in encodings.items()])
        stages["match"] = divergence(before, profiling.outputs(final, shown))
    realised = {unit: with_method(choice, recipe) for unit, choice in {**channels, **layers}.items()}
    return Compressed(final, encodings, plan.with_realised(realised), stages, batches if opened.calibrated else ())


def export(compressed: Compressed, *, target: str | Path | Target | None = None, progress: Progress = SILENT) -> OnnxFile:
    """Write the integer ONNX file, check it, and compare it with the torch model it was made of."""
    return shipped_file(compressed, load_target(target or compressed.plan.target), progress)


def certify(
    file: OnnxFile, *, reference: Any, held_out: Any, delta: float = 0.05, risk: Any = "zero_one", promise: float | None = None
) -> OnnxFile:
    """Certify the file, as onnxruntime runs it, on examples that compression never saw, and seal it.

    Args:
        file: from `export`.
        reference: the original model.
        held_out: `(x, y)`, `(x, y, groups)`, a dict, or inputs alone (then agreement with the original is certified).
        delta: probability that the certificate is wrong, for all its lines together.
        risk: `zero_one`, `agreement`, or a function (outputs, labels) -> losses in [0, 1].
        promise: largest increase of the risk to promise.

    Raises:
        NotCertified: the promise isn't kept at this confidence.
        InvalidRequest: the held-out examples overlap what compression saw, or are too few.
    """
    held_out = as_held_out(held_out, promises.input_names(reference))
    door = open_model(reference, promises.first(held_out))
    return promises.certified(file, door, held_out, delta=delta, risk=risk, promise=promise)


def verify(path: str | Path | OnnxFile, *, certificate: str | Path | None = None, held_out: Any = None) -> Certificate:
    """Check the seal, and recompute the certificate from its evidence or, with `held_out`, from the examples."""
    return promises.verified(path, certificate, held_out)


def compress(
    model: Any,
    recipe: str | Path | Recipe = "edge-int8",
    *,
    target: str | Path | Target = "onnxruntime-x86-vnni",
    calibration: Any = None,
    held_out: Any = None,
    trajectory: Any = None,
    plan: Plan | Profile | None = None,
    progress: Progress = SILENT,
) -> OnnxFile:
    """All verbs in one call: measure, allocate, apply, export, and certify where there are held-out examples.

    Args:
        model: a torch module; it is not changed.
        recipe, target, calibration, trajectory: as in `measure`.
        held_out: examples that nothing else sees; with them the file is certified and sealed.
        plan: a plan to apply as it is, or a profile to start from.
        progress: who is told of phases.
    """
    recipe, target = load_recipe(recipe), load_target(target)
    if recipe.budget.risk_increase is not None and held_out is None:
        raise InvalidRequest("budget.risk_increase is a promise on held-out examples; give held_out=(x, y).")
    batches = None if calibration is None else as_batches(calibration, promises.input_names(model), recipe.calibration or 1)
    if held_out is not None:
        held_out = as_held_out(held_out, promises.input_names(model))
        promises.refuse_overlap(held_out, frozenset(digests(batches or [])))
    job = Job(model, recipe, target, batches, None if held_out is None else promises.first(held_out), progress)
    if isinstance(plan, Plan):
        plans: Sequence[Plan] = [plan]
    else:
        profile = plan or job.profile(trajectory)
        plans = promises.path(profile, recipe)
    if recipe.budget.risk_increase is not None and held_out is not None:
        return promises.boldest_kept(plans, job.file, model, held_out, recipe, progress)
    file = job.file(plans[0])
    if held_out is None:
        return file
    spec = recipe.certificate
    with progress.phase("certify"):
        return certify(file, reference=model, held_out=held_out, delta=spec.delta, risk=spec.risk)


@dataclass(frozen=True)
class Job:
    """One call of `compress`: what every plan of a path shares."""

    model: Any
    recipe: Recipe
    target: Target
    batches: list[Batch] | None
    example: Batch | None
    progress: Progress

    def profile(self, trajectory: Any) -> Profile:
        """Measure."""
        return measure(
            self.model, self.recipe, target=self.target, calibration=self.batches, trajectory=trajectory, example=self.example, progress=self.progress
        )

    def file(self, plan: Plan) -> OnnxFile:
        """Apply and export one plan."""
        small = apply(
            self.model, plan, recipe=self.recipe, target=self.target, calibration=self.batches, example=self.example, progress=self.progress
        )
        file = export(small, target=self.target, progress=self.progress)
        limit = self.recipe.budget.bytes
        whole = None if limit is None else limit if limit >= 1 else limit * file.float_bytes
        if whole is not None and file.sizes.file + SEAL_BYTES > whole and not self.recipe.path:
            raise Infeasible(f"the file takes {file.sizes.file:,} bytes, the budget is {whole:,.0f}; raise budget.bytes.")
        return file


@dataclass(frozen=True)
class Opened:
    """A model and its data, checked."""

    door: TorchModel
    batches: Sequence[Batch]
    calibrated: bool
    notes: tuple[str, ...]


def _open(model: Any, recipe: Recipe, calibration: Any, example: Any) -> Opened:
    """Open the model on its calibration data, or on one example."""
    if isinstance(model, str | Path):
        raise Unsupported(f"'{model}' is a file; models are torch modules for now: load it in Python, or name a function that returns it.")
    names = promises.input_names(model)
    if calibration is None and example is None:
        raise InvalidRequest("neither calibration data nor an example input was given; give calibration=batches or example=x.")
    batches = as_batches(calibration if calibration is not None else example, names, recipe.calibration or 1)
    door = open_model(model, profiling.first_examples(batches, 2)[0])
    calibrated = calibration is not None and recipe.calibration > 0
    warning = preprocessing_warning(model, batches) if calibrated else None
    return Opened(door, batches, calibrated, (warning,) if warning else ())


