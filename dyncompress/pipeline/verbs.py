"""The verbs. A model is measured, a plan allocated and applied, the ONNX file written, and that file certified."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dyncompress.certificates.promise import Promise
from dyncompress.errors import InvalidRequest
from dyncompress.models.data import digests
from dyncompress.models.torch.calling import with_gradients
from dyncompress.pipeline import certification
from dyncompress.pipeline.application.apply_plan import applied
from dyncompress.pipeline.budget_search import Search, file_within_budget
from dyncompress.pipeline.completion import complete, timed
from dyncompress.pipeline.onnx_export import shipped_file, within
from dyncompress.pipeline.profiling.profile import profiled, profiled_for_budget
from dyncompress.pipeline.replanning import allocated, limits_of, plans_for_budgets
from dyncompress.pipeline.task import held_out_of, opened, opened_with_held_out, refuse_other_weights, with_run
from dyncompress.pipeline.verification import verify
from dyncompress.recipe.checks import parse_budget
from dyncompress.recipe.plan_file import read_plan
from dyncompress.recipe.recipe import Recipe
from dyncompress.recipe.toml_files import (
    allocated_by_another,
    load_recipe,
    load_target,
    recipe_for,
    refuse_mismatch,
    target_for,
)
from dyncompress.types import Budget, Compressed, OnnxFile, Plan, Profile, Target
from dyncompress.types.progress import SILENT, Progress

__all__ = ["allocate", "apply", "certify", "compress", "export", "measure", "verify"]


@with_gradients
def measure(
    model: Any,
    recipe: str | Path | Recipe,
    *,
    target: str | Path | Target,
    calibration: Any = None,
    trajectory: Any = None,
    example: Any = None,
    free_axes: Mapping[str, Sequence[int]] | None = None,
    progress: Progress = SILENT,
) -> Profile:
    """Observe the layers, and tabulate costs and predicted distortions of every choice: plans for any budget come from that.

    Args:
        model: a torch module; it is not changed.
        recipe, target: a shipped name, the path of a TOML file, or the value.
        calibration: any iterable of batches (tensor, tuple, dict; labels ignored). Recipes on weights alone need none.
        trajectory: a recorded trajectory or its `.npz`; only some recipes read it.
        example: one batch of inputs, where there is no calibration data.
        free_axes: input -> its axes (counted from 1, the batch axis is 0) that take any length in the file, e.g. `{"x": [2, 3]}`.
            Axes of which the calibration data have several lengths are free without being named.
        progress: who is told of phases.
    """
    recipe, target = load_recipe(recipe), load_target(target)
    return profiled(opened(model, recipe, calibration, example, free_axes), recipe, target, trajectory, progress)


def allocate(profile: Profile, budget: Budget | None = None, *, recipe: str | Path | Recipe | None = None) -> Plan:
    """Choose one option for every unit: the least distortion within the budget; for budget.distortion, the fewest bytes.

    Raises:
        Infeasible: the smallest plan is above the budget.
        InvalidRequest: the budget isn't one.
    """
    recipe = recipe_for(recipe, profile)
    budget = parse_budget(budget or recipe.budget)
    plan = allocated(profile, limits_of(profile, budget), recipe)
    return replace(plan, notes=(*plan.notes, *allocated_by_another(recipe, profile)))


@with_gradients
def apply(
    model: Any,
    plan: Plan | str | Path,
    *,
    recipe: str | Path | Recipe | None = None,
    target: str | Path | Target | None = None,
    calibration: Any = None,
    trajectory: Any = None,
    example: Any = None,
    free_axes: Mapping[str, Sequence[int]] | None = None,
    progress: Progress = SILENT,
) -> Compressed:
    """Carry out a plan, or the file of one, on a copy of the model: remove channels and refit, prune, round, match moments.

    The other arguments are those of `measure`.

    Returns the compressed model; its `.module` is a torch model again.
    """
    plan = plan if isinstance(plan, Plan) else read_plan(plan)
    recipe, target = recipe_for(recipe, plan), target_for(target, plan)
    start = with_run(opened(model, recipe, calibration, example, free_axes), trajectory)
    small = applied(start, plan, recipe, target, progress)
    return replace(small, plan=replace(small.plan, recipe=recipe.name, target=target.name))


@with_gradients
def export(compressed: Compressed, *, target: str | Path | Target | None = None, progress: Progress = SILENT) -> OnnxFile:
    """Write the integer ONNX file, check it, and compare it with the torch model it was made of."""
    return shipped_file(compressed, load_target(target or compressed.plan.target), progress)


@with_gradients
def certify(
    file: OnnxFile,
    *,
    reference: Any,
    held_out: Any,
    delta: float = 0.05,
    risk: Any = "zero_one",
    promise: float | None = None,
    look: int | None = None,
) -> OnnxFile:
    """Certify the file, as onnxruntime runs it, on examples that compression never saw, and seal it.

    Args:
        file: from `export`.
        reference: the original model.
        held_out: `(x, y)`, `(x, y, groups)`, a dict, or inputs alone (then agreement with the original is certified).
        delta: probability that the certificate is wrong, for all its lines together.
        risk: `zero_one`, `agreement`, or a function (outputs, labels) -> losses in [0, 1].
        promise: largest increase of the risk to promise.
        look: 1, 2, ... where several certificates are made on one held-out set: look k gets delta * 6 / (pi^2 k^2). None:
            the certificate says that it is valid only as the only look.

    Raises:
        NotCertified: the promise isn't kept at this confidence.
        InvalidRequest: the held-out examples overlap what compression saw, or are too few.
    """
    held = held_out_of(reference, held_out)
    door, asked = certification.opened_original(file, reference, held), Promise(delta=delta, risk_increase=promise)
    trial = certification.trial(door, held, file.seen, risk=risk, promise=asked, look=look)
    return timed(certification.certified(file, door, trial), door)


@with_gradients
def compress(
    model: Any,
    recipe: str | Path | Recipe | None = None,
    *,
    target: str | Path | Target | None = None,
    calibration: Any = None,
    held_out: Any = None,
    trajectory: Any = None,
    plan: Plan | Profile | str | Path | None = None,
    free_axes: Mapping[str, Sequence[int]] | None = None,
    keep_float: bool = False,
    progress: Progress = SILENT,
) -> OnnxFile:
    """All verbs in one call: measure, allocate, apply, export, and certify where there are held-out examples.

    Args:
        model: a torch module; it is not changed.
        recipe, target: as in `measure`; None: the plan's, else `edge-int8` and `onnxruntime-x86-vnni`.
        calibration, trajectory: as in `measure`; a recipe on weights alone takes one batch as an example.
        held_out: examples that nothing else sees; with them the file is certified and sealed.
        plan: a plan (or the path of its file) to apply as it is, whatever the budget; or a profile to start from.
        free_axes: as in `measure`.
        keep_float: keep the model's float32 ONNX file as `file.float_body`, to be saved and compared with; costs its bytes.
        progress: who is told of phases.

    Raises:
        Infeasible, NotCertified, InvalidRequest, Unsupported: as the verbs.
    """
    plan = read_plan(plan) if isinstance(plan, str | Path) else plan
    recipe, target = recipe_for(recipe, plan), target_for(target, plan)
    refuse_mismatch(recipe, target, plan)
    spec, limit = recipe.certificate, recipe.budget.risk_increase
    if limit is not None and held_out is None:
        raise InvalidRequest("budget.risk_increase is a promise on held-out examples; give held_out=(x, y).")
    start, batches, held = opened_with_held_out(model, recipe, calibration, held_out, free_axes, isinstance(plan, Plan))
    start, trial = with_run(start, trajectory), None
    if plan is not None:
        refuse_other_weights(start, plan)
    if held is not None:  # everything that can be refused is refused before the work begins
        asked = Promise(delta=spec.delta, risk_increase=limit, method=spec.method)
        trial = certification.trial(start.door, held, frozenset(digests(batches or [])), risk=spec.risk, promise=asked)
    budgeted = None if recipe.path or isinstance(plan, Plan) else recipe.budget.bytes
    found = plan or profiled_for_budget(start, recipe, target, None, progress)

    def build(plan: Plan) -> OnnxFile:
        return shipped_file(applied(start, plan, recipe, target, progress), target, progress)

    if limit is not None and trial is not None:
        plans = [found] if isinstance(found, Plan) else plans_for_budgets(start, found, recipe, target)
        finished, trial = certification.boldest(plans, build, start.door, trial), None  # it is certified
    elif isinstance(found, Plan):
        finished = build(found)
    else:
        search = Search(start, found, recipe.budgets()[0], recipe, target, build, sealed=trial is not None)
        finished = file_within_budget(search, lambda finer: profiled_for_budget(start, finer, target, None, progress))
    finished = replace(finished, seen=finished.seen | frozenset(digests(batches or [])))
    if trial is not None:
        with progress.phase("certify"):
            finished = within(budgeted, certification.certified(finished, start.door, trial))
    return complete(finished, start, found, keep_float=keep_float, progress=progress)
