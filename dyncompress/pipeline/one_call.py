"""The body of `compress`: all verbs in one call, in an order that refuses everything before the work begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from dyncompress.certificates.promise import Promise
from dyncompress.errors import InvalidRequest
from dyncompress.models import load
from dyncompress.models.data import digests
from dyncompress.models.signature import refuse_other_form
from dyncompress.pipeline import certification
from dyncompress.pipeline.application.apply_plan import apply_plan
from dyncompress.pipeline.budget_search import Search, file_within_budget
from dyncompress.pipeline.completion import complete
from dyncompress.pipeline.onnx_export import shipped_file, within
from dyncompress.pipeline.profiling.profile import profile_for_budget
from dyncompress.pipeline.replanning import plans_for_budgets
from dyncompress.pipeline.task import (
    InputData,
    Task,
    measures_distortion,
    open_task,
    refuse_other_weights,
    with_held_out,
)
from dyncompress.recipe.recipe import Recipe
from dyncompress.recipe.toml_files import refuse_mismatch
from dyncompress.types import Batch, HeldOut, OnnxFile, Plan, Profile, Target
from dyncompress.types.progress import Progress


@dataclass(frozen=True)
class OneCall:
    """The arguments of a call of `compress`.

    Attributes:
        model: a module, a model adapter, or an open task.
        recipe, target: values.
        data: calibration data and free axes.
        held_out: anything that is read as held-out examples, or None.
        plan: a plan to apply, a profile to start from, or None.
        keep_float: whether the float32 file stays with the file.
        progress: receives the phases of the work.
    """

    model: Any
    recipe: Recipe
    target: Target
    data: InputData
    held_out: Any
    plan: Plan | Profile | None
    keep_float: bool
    progress: Progress


def compress_in_one_call(call: OneCall) -> OnnxFile:
    """The finished file: measured, allocated, applied, exported, and certified where there are held-out examples.

    Raises:
        Infeasible, NotCertified, InvalidRequest, Unsupported: as the verbs.
    """
    task, batches, held = _open(replace(call, model=load(call.model)))
    trial = None if held is None else _trial(task, batches, held)
    made = call.plan or profile_for_budget(task)
    file, certified = _built(task, made, trial)
    seen = frozenset(digests(batches or []))
    file = replace(file, seen=file.seen | seen)
    if trial is not None and not certified:
        limit = None if task.recipe.path or isinstance(made, Plan) else task.recipe.budget.bytes
        with task.progress.phase("certify"):
            file = within(limit, certification.certify_file(file, task.model, trial))
    return complete(file, task, made, keep_float=call.keep_float)


def _open(call: OneCall) -> tuple[Task, Sequence[Batch] | None, HeldOut | None]:
    """The task, all calibration batches, and the held-out examples, checked against one another.

    Raises:
        InvalidRequest: names the arguments that conflict.
    """
    recipe, plan = call.recipe, call.plan
    refuse_mismatch(recipe, call.target, plan)
    if recipe.budget.risk_increase is not None and call.held_out is None:
        raise InvalidRequest("budget.risk_increase is a promise on held-out examples; give held_out=(x, y).")
    data, batches, held = with_held_out(call.model, call.data, call.held_out, recipe)
    if batches is None and measures_distortion(recipe) and not isinstance(plan, Plan):
        raise InvalidRequest("budget.distortion is measured on calibration data; give calibration=batches, or set budget.bytes.")
    task = open_task(call.model, recipe, call.target, data, call.progress)
    if held is not None:
        refuse_other_form(held.inputs, task.batches[0], task.model.free)
    if plan is not None:
        refuse_other_weights(task, plan)
    return task, batches, held


def _trial(task: Task, batches: Sequence[Batch] | None, held: HeldOut) -> certification.Trial:
    """The held-out examples, checked; everything that can be refused is refused before the work begins."""
    spec = task.recipe.certificate
    promise = Promise(delta=spec.delta, risk_increase=task.recipe.budget.risk_increase, method=spec.method)
    seen = frozenset(digests(batches or []))
    return certification.trial(task.model, held, seen, certification.CertificateRequest(promise, spec.risk, None))


def _built(task: Task, made: Plan | Profile, trial: certification.Trial | None) -> tuple[OnnxFile, bool]:
    """The file that keeps the recipe's budget or promise, and whether it is certified already."""

    def build(plan: Plan) -> OnnxFile:
        return shipped_file(apply_plan(task, plan), task.target, task.progress)

    if task.recipe.budget.risk_increase is not None and trial is not None:
        plans = [made] if isinstance(made, Plan) else plans_for_budgets(task, made)
        return certification.boldest(plans, build, task.model, trial), True
    if isinstance(made, Plan):
        return build(made), False
    search = Search(task, made, task.recipe.budgets()[0], build, sealed=trial is not None)
    return file_within_budget(search, profile_for_budget), False
