"""The verb `compare`: the plans of all allocators at one budget, carried out alike and judged on examples that nothing saw."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import nan
from pathlib import Path
from typing import Any

import numpy as np

from dyncompress.allocation.plan import allocated, limits_of
from dyncompress.errors import DyncompressError, InvalidRequest
from dyncompress.measures.divergence import are_scores, divergence_of_outputs
from dyncompress.models import load
from dyncompress.models.data import digests
from dyncompress.models.torch.calling import as_verb
from dyncompress.pipeline.application.apply_plan import apply_plan
from dyncompress.pipeline.certification import without_seen
from dyncompress.pipeline.comparison.contenders import (
    CONTENDERS,
    FISHER,
    UNIFORM,
    Contender,
    Table,
    measures_read,
    tables_of,
)
from dyncompress.pipeline.comparison.judgement import Resampled, resampled, verdicts
from dyncompress.pipeline.comparison.remembered_rounding import RememberedRounding
from dyncompress.pipeline.observed_model import originals, outputs
from dyncompress.pipeline.profiling.profile import profile_of
from dyncompress.pipeline.task import InputData, Task, open_task, with_held_out
from dyncompress.pruning import PRUNERS
from dyncompress.quantization import QUANTIZERS
from dyncompress.recipe.checks import check_one_of, parse_budget
from dyncompress.recipe.recipe import Recipe
from dyncompress.recipe.toml_files import DEFAULT_TARGET, load_recipe, load_target
from dyncompress.types import Batch, Budget, HeldOut, Model, Plan, Profile, Target
from dyncompress.types.comparison import AllocatorResult, Comparison
from dyncompress.types.progress import SILENT, Progress

ZEROS, BITS = "zeros", "bits"
SPARSITIES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
WIDTHS = (8, 6, 5, 4, 3, 2)
USUAL_SPARSITY, USUAL_WIDTH = 0.7, 3
PRIOR = "small-networks"
BATCH = 128  # held-out examples that the networks run on at once


@as_verb
def compare(
    model: Any,
    *,
    action: str = BITS,
    budget: Budget | Mapping[str, float] | None = None,
    target: str | Path | Target = DEFAULT_TARGET,
    calibration: Any = None,
    held_out: Any = None,
    trajectory: Any = None,
    progress: Progress = SILENT,
) -> Comparison:
    """Compare allocators on one network: does theory earn its place here?

    Every allocator makes a plan for the same budget from the same options. All plans are carried out alike: the same pruner or
    quantizer, and moments matched on the same calibration examples. Activations stay float. The divergence from the original is
    measured on held-out examples that nothing else saw.

    Args:
        model: as in `measure`; it is not changed.
        action: `bits` (2 to 8 for each layer, rounding with the least squared error) or `zeros` (0 to 95 % by magnitude).
        budget: of bytes for `bits`, of sparsity for `zeros` (a file stores float weights in full, however many are zero); None:
            the bytes of 3 bits in every layer, or 70 % zeros.
        target: whose integers the grids of the weights fit.
        calibration: as in `measure`; without it, moments aren't matched and the allocators that read data are left out.
        held_out: `(x, y)`, `(x, y, groups)`, a mapping, or inputs alone. A few hundred examples give short intervals.
        trajectory: as in `measure`.
        progress: receives the phases of the work.

    Returns:
        a row for each allocator, with its reason where it made no plan, and the verdicts with their figures.

    Raises:
        InvalidRequest: there are no held-out examples, more than 1 % of them are calibration examples, the budget limits
            something that the action doesn't change, or every layer has one option.
        Infeasible: not even the smallest plan keeps the budget.

    Example:
        >>> import dyncompress, torch
        >>> network = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 8))
        >>> x = torch.randn(400, 64)
        >>> found = dyncompress.compare(network, calibration=x[:100], held_out=x[100:])
        >>> found["uniform"].ratio.value, found["lamp"].plan is None, found.answer in ("yes", "no", "can't tell")
        (1.0, True, True)
    """
    if held_out is None:
        raise InvalidRequest("compare: no held-out examples were given; give held_out=x, examples that nothing else sees.")
    check_one_of(action, (BITS, ZEROS), "compare: action")
    options, data = _options(action, _budget(budget, action)), InputData(calibration, trajectory=trajectory)
    task, held, notes = _opened(load(model), options, load_target(target), data, held_out)
    return _compared(replace(task, progress=progress), held, notes)


def _opened(model: Any, options: Recipe, target: Target, data: InputData, held_out: Any) -> tuple[Task, HeldOut, tuple[str, ...]]:
    """The network with its data and the measures that the allocators read; the held-out examples; and notes on them.

    Raises:
        InvalidRequest: more than 1 % of the held-out examples are calibration examples, or the trajectory is another model's.
    """
    data, batches, held = with_held_out(model, data, held_out, options)
    assert held is not None
    held, dropped = without_seen(held, frozenset(digests(batches or ())))
    task = open_task(model, options, target, data)
    notes = [*(task.run.notes if task.run else ())]
    if dropped:
        notes.append(f"{len(dropped)} held-out examples were dropped: calibration saw them.")
    sources = (FISHER, "theory") if task.calibrated else ("theory",)
    prior = load_recipe("heavy-tail", {"theory": {"prior": PRIOR}, "sensitivity": list(sources)})
    weights = sum(layer.weights for layer in task.model.layers())
    measures = measures_read(prior, calibrated=task.calibrated, weights=weights)
    recipe = replace(options, sensitivity=sources, measures=measures, priors=prior.priors, match=task.calibrated)
    return replace(task, recipe=recipe), held, tuple(notes)


def _compared(task: Task, held: HeldOut, notes: tuple[str, ...]) -> Comparison:
    """Measure the network, make all plans, and judge them on the held-out examples.

    Raises:
        InvalidRequest: every layer has one option.
        Infeasible: not even the smallest plan keeps the budget.
    """
    base = profile_of(replace(task, source=replace(task.source, run=None), recipe=replace(task.recipe, priors={})))
    if not any(option.change for options in base.table.values() for option in options):
        raise InvalidRequest("compare: every layer has a single option, so that all plans are alike.")
    limit = task.recipe.budget if task.recipe.budget != Budget() else _same_width(base)
    with task.progress.phase("predict the distortions"):
        tables = tables_of(task, base)
    judge = Judge.of(task, held)
    rows = _rows(Plans(task, base, tables, limit), judge)
    found = resampled({row.name: judge.divergences[row.name] for row in rows if not row.reason}, held.groups)
    return Comparison(
        rows=tuple(_with_ratio(row, found) for row in rows),
        verdicts=verdicts(found),
        budget=limit,
        unit="nats" if judge.scored else "relative squared error",
        examples=len(held),
        accuracy=judge.accuracy(judge.reference),
        notes=(*base.notes, *notes),
    )


def _budget(budget: Budget | Mapping[str, float] | None, action: str) -> Budget:
    """The budget as asked, checked; an empty one stands for the bytes of one width.

    Raises:
        InvalidRequest: it limits something else than the action changes.
    """
    if budget is None:
        return Budget(sparsity=USUAL_SPARSITY) if action == ZEROS else Budget()
    asked, row = parse_budget(budget, "compare: budget"), "sparsity" if action == ZEROS else "bytes"
    limited = [name for name, value in vars(asked).items() if value is not None]
    if limited != [row]:
        raise InvalidRequest(
            f"compare: the budget limits {' and '.join(limited) or 'nothing'}; with action '{action}' give budget.{row} alone."
        )
    return asked


def _options(action: str, budget: Budget) -> Recipe:
    """A recipe with the options of an action."""
    base = Recipe(name=f"compare-{action}", sensitivity=("theory",), budget=budget, match=False)
    if action == ZEROS:
        return replace(base, pruner=PRUNERS["magnitude"](), sparsities=SPARSITIES)
    return replace(base, quantizer=RememberedRounding(QUANTIZERS["mse"]()), weight_bits=WIDTHS)


def _same_width(profile: Profile) -> Budget:
    """The bytes of the widest option of every layer that has no more than the usual width, or of its narrowest one."""
    sizes = (
        next((option.bytes for option in options if option.choice.weight_bits <= USUAL_WIDTH), options[-1].bytes)
        for options in profile.table.values()
    )
    return Budget(bytes=profile.fixed_bytes + sum(sizes))


# ---------------------------------------------------------------- plans
@dataclass(frozen=True)
class Plans:
    """What the plans of all contenders are made from.

    Attributes:
        task: the opened network with its recipe.
        base: the profile that was measured.
        tables: name -> the profile with the distortions to choose by, or why there is none.
        budget: that every plan keeps.
    """

    task: Task
    base: Profile
    tables: Mapping[str, Table]
    budget: Budget

    def of(self, rival: Contender) -> list[Plan]:
        """The plan of each of its allocators.

        Raises:
            InvalidRequest: the rule can't be used for this network, or there is no table for it.
            Infeasible: the smallest plan exceeds the budget.
        """
        table = self.tables[rival.table]
        if isinstance(table, str):
            raise InvalidRequest(table)
        return [allocated(table, limits_of(table, self.budget), allocator) for allocator in rival.allocators]

    def zeros(self, plan: Plan) -> float:
        """The share of zeros among the weights of the layers that have options."""
        sizes = {layer.name: layer.weights for layer in self.base.layers if layer.name in self.base.table}
        return sum(plan.asked[name].sparsity * size for name, size in sizes.items()) / max(sum(sizes.values()), 1)


def _rows(plans: Plans, judge: Judge) -> list[AllocatorResult]:
    """A row for each contender, without ratios.

    Raises:
        Infeasible: the budget is too small for any plan.
    """
    rows: list[AllocatorResult] = []
    with plans.task.progress.phase("compare the allocators", len(CONTENDERS)) as step:
        for rival in CONTENDERS:
            try:
                made = plans.of(rival)
            except DyncompressError as error:
                if rival.name == UNIFORM:  # which every budget and every network allows, if any plan is allowed
                    raise
                rows.append(AllocatorResult(rival.name, rival.reads, reason=str(error)))
            else:
                rows.append(_judged(rival, made, plans, judge))
            step.advance()
    return rows


def _judged(rival: Contender, made: Sequence[Plan], plans: Plans, judge: Judge) -> AllocatorResult:
    """Carry out the plans of a contender, and measure them on the held-out examples; means over several plans."""
    seen = [judge.examine(plans.task, plan) for plan in made]
    judge.divergences[rival.name] = np.mean([one.divergence for one in seen], axis=0)
    return AllocatorResult(
        name=rival.name,
        reads=rival.reads,
        plan=made[0],
        bytes=float(np.mean([plan.cost["bytes"] for plan in made])),
        zeros=float(np.mean([plans.zeros(plan) for plan in made])),
        divergence=float(judge.divergences[rival.name].mean()),
        changed=float(np.mean([one.changed for one in seen])),
        accuracy=float(np.mean([one.accuracy for one in seen])),
    )


def _with_ratio(row: AllocatorResult, found: Resampled) -> AllocatorResult:
    """The row with its standard error and its ratio to the uniform plan."""
    return row if row.reason else replace(row, stderr=found.stderr(row.name), ratio=found.ratio(row.name, UNIFORM))


# ---------------------------------------------------------------- held-out examples
@dataclass(frozen=True)
class Examined:
    """What a plan did on the held-out examples: the divergence of each `[n]`, and the two shares of `AllocatorResult`."""

    divergence: np.ndarray
    changed: float
    accuracy: float


@dataclass(frozen=True)
class Judge:
    """The held-out examples, and what was measured on them; equal plans are carried out once.

    Attributes:
        batches: the inputs.
        labels: `[n]`, or None.
        reference: the outputs of the original.
        known: plan -> what it did.
        divergences: contender -> divergence of each example, `[n]`.
    """

    batches: Sequence[Batch]
    labels: np.ndarray | None
    reference: tuple[np.ndarray, ...]
    known: dict[str, Examined]
    divergences: dict[str, np.ndarray]

    @staticmethod
    def of(task: Task, held: HeldOut) -> Judge:
        """Run the original on the held-out examples."""
        batches = list(_batches(held))
        return Judge(batches, held.labels, originals(task.model, batches), {}, {})

    @property
    def scored(self) -> bool:
        """Whether the first output is scores of classes."""
        return are_scores(self.reference[0])

    def examine(self, task: Task, plan: Plan) -> Examined:
        """Carry out a plan and compare its outputs with the original's."""
        key = str(sorted((unit, str(choice)) for unit, choice in plan.asked.items()))
        if key not in self.known:
            self.known[key] = self._measured(apply_plan(task, plan).model)
        return self.known[key]

    def _measured(self, model: Model) -> Examined:
        """The divergence of a compressed model, and its answers."""
        found = outputs(model, self.batches)
        changed = float((found[0].argmax(1) != self.reference[0].argmax(1)).mean()) if self.scored else nan
        return Examined(divergence_of_outputs(self.reference, found), changed, self.accuracy(found))

    def accuracy(self, found: Sequence[np.ndarray]) -> float:
        """The share of right answers; nan where there are no labels of classes."""
        if self.labels is None or not self.scored or self.labels.shape != (len(found[0]),):
            return nan
        return float((found[0].argmax(1) == self.labels).mean())


def _batches(held: HeldOut) -> Iterator[Batch]:
    """The inputs in batches."""
    for start in range(0, len(held), BATCH):
        yield {name: value[start : start + BATCH] for name, value in held.inputs.items()}
