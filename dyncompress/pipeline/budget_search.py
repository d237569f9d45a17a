"""Files that keep a budget: plans are applied and their files measured, until one is within the budget.

A prediction decides only what is tried first. Bytes are those of the file that ships; seconds are a run's, timed; zeros are
counted; and the divergence of outputs is measured on the finished file, on calibration examples that were set aside: nothing was
fitted on them. Where no plan keeps the budget, the error states what was reached.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch

from dyncompress import deployment
from dyncompress.allocation.cost import DISTORTION
from dyncompress.allocation.plan import floor_of, limits_of, whole_budget
from dyncompress.errors import Differs, Infeasible, InvalidRequest, Unsupported
from dyncompress.measures.divergence import are_scores, as_scores, divergence_of_outputs, log_softmax, per_example
from dyncompress.models.augmentation import augment
from dyncompress.pipeline.completion import candidate, with_candidates
from dyncompress.pipeline.observed_model import ObservedModel, as_numpy, count_of, originals
from dyncompress.pipeline.profiling.latency import seconds_of_file
from dyncompress.pipeline.replanning import NOISE, TIMED, out_of_reach, replan_with_measured_costs
from dyncompress.pipeline.task import Task
from dyncompress.recipe.recipe import Recipe
from dyncompress.types import SEAL_BYTES, Batch, Budget, Candidate, Distillation, OnnxFile, Plan, Profile, Shown

Build = Callable[[Plan], OnnxFile]

FILES = 7  # files that are made for a budget of bytes or distortion
FULL = 0.8  # of a budget of distortion: a plan that uses this share is bold enough
AIM = 0.95  # of a budget of distortion: the share that the next plan aims at
ERRORS = 64  # output errors that are tried on other examples
SURE = 2.0  # a measured divergence must stay within its budget at this many standard errors above the mean
FINER = 16.0  # factor by which steps shrink where the finest step of the recipe is too coarse
SHIFT = 2  # pixels, of shifted images
ALIKE = 1.5  # the largest ratio of the uncertainty on augmented images to that on the images themselves
MOST = 8.0  # the largest factor by which a level changes at once


@dataclass
class Search:
    """Makes files from plans until one keeps the budget.

    Attributes:
        task: its recipe names what may be chosen.
        profile, budget: what is asked for.
        build: makes the file of a plan.
        sealed: whether the file will carry a seal, whose bytes count.
        lost_channel: the message about the last file that lost a channel.
        made: the files that were built, without their bytes.
    """

    task: Task
    profile: Profile
    budget: Budget
    build: Build
    sealed: bool = False
    lost_channel: str = ""
    made: list[Candidate] = field(default_factory=list)

    def file(self) -> OnnxFile:
        """The file of a plan that keeps every budget, as measured on the file itself.

        Raises:
            Infeasible: no plan keeps the budgets; the message states the smallest cost that was reached.
        """
        if self.budget.distortion is not None and self.budget.bytes is None:
            file = self._within_distortion()
        elif self.budget.bytes is not None:
            file = self._within_bytes()
        elif self.budget.seconds is not None:
            file = self._within_seconds()
        else:
            file = self._checked(self._built(self._plan({})))
        return with_candidates(file, self.made)

    def _built(self, plan: Plan) -> OnnxFile:
        """The file of a plan; its size and divergence join the list of candidates."""
        file = self.build(plan)
        self.made.append(candidate(file))
        return file

    def _plan(self, limits: Mapping[str, float]) -> Plan:
        """The plan of the budget with other limits for some rows of the table."""
        known = {**limits_of(self.profile, self.budget), **limits}
        return replan_with_measured_costs(self.task, self.profile, self.budget, known)

    def _checked(self, file: OnnxFile) -> OnnxFile:
        """The file itself, if it has the sparsity that was asked for.

        Raises:
            Infeasible: it has fewer zeros.
        """
        asked = self.budget.sparsity
        if asked is not None:
            zeros, weights = realised_zeros(file.plan, self.profile)
            if zeros < asked * weights - len(self.profile.table) / 2:
                raise Infeasible(
                    f"budget.sparsity is {asked:.4g}, and {zeros / weights:.4g} of the weights came out as zeros; lower it, or "
                    "list larger shares in prune.sparsities."
                )
        return file

    def _within_seconds(self) -> OnnxFile:
        """A file that runs in the time asked for, by its own measured time.

        Raises:
            Infeasible: the fastest file that was built takes longer.
        """
        asked, limit = whole_budget(self.profile, self.budget)["seconds"], limits_of(self.profile, self.budget)["seconds"]
        fastest = math.inf
        for _ in range(TIMED):
            file = self._built(self._plan({"seconds": limit}))
            real = seconds_of_file(self.task, file, self.profile)
            fastest = min(fastest, real)
            if real <= asked * (1 + NOISE):
                return self._checked(replace(file, plan=replace(file.plan, cost={**file.plan.cost, "file_seconds": real})))
            limit -= real - asked
        raise out_of_reach(self.profile, {"seconds": asked}, {"seconds": fastest}, self.task.recipe)

    # -------------------------------------------------- bytes
    def _within_bytes(self) -> OnnxFile:
        """A file of at most the bytes asked for: its real size moves the limit of the table.

        Raises:
            Infeasible: the smallest file is larger.
        """
        whole = whole_budget(self.profile, self.budget)["bytes"]
        most, floor = whole - SEAL_BYTES * self.sealed, floor_of(self.profile, "bytes")
        limit, smallest, best = limits_of(self.profile, self.budget)["bytes"], math.inf, None
        for number in range(FILES):
            last = limit <= floor
            file = self._built(self._plan({"bytes": max(limit, floor)}))
            size = len(file.shipped)
            smallest = min(smallest, size)
            if size <= most:
                best = self._checked(file)
            room = most - size
            if last or (best is not None and 0 <= room <= 0.05 * most) or (best is not None and size > most):
                break
            if best is not None and (limit >= self._largest("bytes") or number >= FILES - 4):
                break
            limit = max(limit, floor) + (room if room < 0 else 0.9 * room)
        if best is None:
            need = f"{smallest + SEAL_BYTES * self.sealed:,.0f} bytes".replace(",", " ") + ", its seal included" * self.sealed
            limited = f"{math.floor(whole):,}".replace(",", " ")
            other = "list larger quantize.steps" if self.task.recipe.steps else "allow fewer bits in the recipe and the target"
            raise Infeasible(
                f"the smallest file that recipe '{self.task.recipe.name}' made takes {need}, the budget is {limited}; "
                f"raise budget.bytes, or {other}."
            )
        if self.budget.distortion is None:
            return best
        beside = "both budget.bytes and budget.distortion are set; the bytes decide, and the distortion isn't a limit."
        return replace(best, notes=(*best.notes, beside))

    def _largest(self, row: str) -> float:
        """The cost of the most careful plan in the table; a higher limit changes nothing."""
        return math.fsum(max(getattr(o, row) for o in options) for options in self.profile.table.values())

    # -------------------------------------------------- distortion
    def _within_distortion(self) -> OnnxFile:
        """The smallest of the built files whose measured divergence is within the budget.

        Raises:
            Infeasible: even the divergence of the most careful plan is larger.
        """
        asked = level = float(self.budget.distortion or 0.0)
        passed, failed = 0.0, math.inf  # the boldest level that kept it, and the most careful one that didn't
        reached = math.inf  # the smallest divergence that was measured
        best: OnnxFile | None = None
        tried: dict[tuple, tuple[OnnxFile | None, float]] = {}
        for number in range(FILES):
            plan = self._plan({DISTORTION: max(level, floor_of(self.profile, DISTORTION))})
            key = tuple(plan.asked.items())
            if key not in tried:  # the table's options are few: it may be the same plan again
                tried[key] = self._measured(plan)
            file, upper = tried[key]
            reached = min(reached, upper)
            if file is not None and upper <= asked:
                passed = max(passed, level)
                best = file if best is None or len(file.shipped) < len(best.shipped) else best
                if upper >= FULL * asked / (1 + number // 2) or plan.distortion >= self._boldest():
                    break
            else:
                failed = min(failed, level)
            if (best is None and plan.distortion <= floor_of(self.profile, DISTORTION)) or (
                best is not None and number >= FILES - 4
            ):
                break
            level = next_level(level, upper, asked, passed, failed)
        if best is None:
            raise self._unkept(asked, reached)
        return self._checked(best)

    def _unkept(self, asked: float, reached: float) -> Infeasible:
        """The error that states what was asked for and what was reached."""
        unit, recipe = " nats" if self._nats() else "", self.task.recipe
        start = f"budget.distortion is {asked:.3g}{unit}, and"
        if not math.isfinite(reached):
            return Infeasible(
                f"{start} every plan of recipe '{recipe.name}' that was tried lost a channel of an output ({self.lost_channel}); "
                f"{self._gentler()}."
            )
        return Infeasible(
            f"{start} the smallest that recipe '{recipe.name}' reached is {reached:.3g}{unit} (two standard errors above "
            f"the mean, measured on the file with {self._aside()} calibration examples that nothing was fitted on); raise it, or "
            f"{self._gentler()}."
        )

    def _measured(self, plan: Plan) -> tuple[OnnxFile | None, float]:
        """The file of a plan (None if a channel is lost), and its divergence on the examples set aside with its error."""
        try:
            file = self._built(plan)
        except Differs as error:
            self.lost_channel = str(error).partition(";")[0]
            return None, math.inf
        mean, error, upper = divergence_of_file(file, *self._references)
        cost = {**file.plan.cost, "divergence": mean, "divergence_stderr": error}
        return replace(file, plan=replace(file.plan, cost=cost)), upper

    @cached_property
    def _references(self) -> tuple[Shown, Shown]:
        """What every file is compared with; the model that came in runs once."""
        return references(self.task.source, self.task.recipe.mirrored)

    def _boldest(self) -> float:
        """The predicted distortion of the boldest plan there is."""
        bold = (max(o.distortion for o in options if np.isfinite(o.distortion)) for options in self.profile.table.values())
        return math.fsum(bold) * (1 - 1e-9)

    def _aside(self) -> int:
        return count_of(self.task.aside)

    def _nats(self) -> bool:
        outputs = originals(self.task.model, self.task.aside[:1])
        return len(outputs) == 1 and are_scores(outputs[0])

    def _gentler(self) -> str:
        """The other settings that would help, for an error message."""
        finer = "list smaller quantize.steps" if self.task.recipe.steps else "allow more bits in quantize.weight_bits"
        return f"{finer}, or set quantize.activation_bits = 32" if self.task.recipe.activation_bits == 8 else finer


def file_within_budget(search: Search, measure: Callable[[Task], Profile]) -> OnnxFile:
    """The file of a search; where no step of the recipe is fine enough, that of the recipe with finer steps.

    Args:
        search: the search for a budget of the recipe.
        measure: returns the profile of a task whose recipe has other steps.

    Raises:
        Infeasible: no plan keeps the budget.
    """
    try:
        return search.file()
    except Infeasible:
        finer = with_finer_steps(search.task.recipe)
        if finer is None:
            raise
        task = replace(search.task, recipe=finer)
        return replace(search, task=task, profile=measure(task)).file()


def with_finer_steps(recipe: Recipe) -> Recipe | None:
    """The recipe with finer steps; None for a recipe without steps or without a budget of distortion."""
    if not recipe.steps or recipe.budget.distortion is None or recipe.budget.bytes is not None:
        return None
    return replace(recipe, steps=tuple(step / FINER for step in recipe.steps))


def next_level(level: float, upper: float, asked: float, passed: float, failed: float) -> float:
    """The level of predicted distortion to try next: divergence grows about as predicted distortion does.

    Args:
        level, upper: the level that was tried, and the divergence measured there.
        asked: the budget.
        passed, failed: the boldest level that kept it, and the most careful one that didn't; 0 and infinity where there is none.

    Example:
        >>> round(next_level(0.08, 0.16, 0.08, 0.0, 0.08), 6)
        0.038
    """
    factor = min(max(AIM * asked / max(upper, 1e-12), 1 / MOST), MOST)
    aim = level * factor
    if passed and math.isfinite(failed) and not passed < aim < failed:
        return math.sqrt(passed * failed)
    return aim


def references(source: ObservedModel, mirrored: bool) -> tuple[Shown, Shown]:
    """The calibration examples set aside, and those that were fitted on, with what the model that came in computes on them.

    Where images may be flipped and the model is about as certain of augmented ones, the latter are flipped and shifted at random.

    Args:
        source: with examples set aside.
        mirrored: whether images may be flipped horizontally.

    Raises:
        InvalidRequest: no examples were set aside.
        Unsupported: no output is of a float type.
    """
    if not source.aside:
        raise InvalidRequest(
            "budget.distortion is measured on calibration examples, and none were given; give calibration=batches, or set "
            "budget.bytes."
        )
    aside = Shown(source.aside, originals(source.model, source.aside))
    if not any(output.dtype.kind == "f" for output in aside.outputs):
        raise Unsupported(
            "budget.distortion is the divergence of outputs that are numbers, and this model returns integers alone; let it "
            "return its scores, or set budget.bytes."
        )
    fitted = Shown(source.batches, originals(source.model, source.batches))
    if mirrored and are_scores(fitted.outputs[0]):
        moved = _augmented(source)
        other = Shown(moved, originals(source.model, moved))
        if _uncertainty(other.outputs[0]) <= ALIKE * _uncertainty(fitted.outputs[0]):  # else they are out of distribution, as
            return aside, other  # flipped digits are
    return aside, fitted


def divergence_of_file(file: OnnxFile, aside: Shown, fitted: Shown) -> tuple[float, float, float]:
    """Divergence of a file from the model that came in, on the calibration examples set aside: mean, standard error, upper end.

    The divergences of all float outputs are summed: in nats for a table of scores, else relative to the output's variance. A few
    examples make up most of the divergence, and the examples set aside may miss them. So the upper end is `SURE` standard errors
    above the mean, and no less than two other estimates: the divergence on the examples that were fitted on, and the effect of
    the outputs' errors on the scores of all examples (`crossed_divergence`).

    Args:
        file: the finished file.
        aside, fitted: of `references`.
    """
    session = deployment.Session(file.body, file.target)
    wanted, actual, right = aside.outputs, _answers(session, aside.batches), fitted.outputs
    each = divergence_of_outputs(wanted, actual)
    mean, error = float(each.mean()), float(each.std(ddof=1) / math.sqrt(len(each))) if len(each) > 1 else math.inf
    upper = max(mean + SURE * error, float(divergence_of_outputs(right, _answers(session, fitted.batches)).mean()))
    if are_scores(right[0]):
        upper = max(upper, crossed_divergence(*_errors(wanted[0], actual[0], right[0])))
    return mean, error, upper


def _answers(session: deployment.Session, batches: Sequence[Batch]) -> tuple[np.ndarray, ...]:
    """A file's outputs on all batches, each `[n, ...]`."""
    return session.over([as_numpy(batch) for batch in batches])


def _errors(wanted: np.ndarray, actual: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The errors of class scores, and other scores, where outputs may be probabilities."""
    return as_scores(actual, wanted) - as_scores(wanted), as_scores(scores, wanted)


def _uncertainty(scores: np.ndarray) -> float:
    """The mean uncertainty of scores: the probability that two classes drawn from one softmax differ."""
    return float(1 - np.square(np.exp(log_softmax(as_scores(scores)))).sum(1).mean())


def _augmented(source: ObservedModel) -> list[Batch]:
    """The examples that were fitted on, with images flipped and shifted at random and other inputs unchanged."""
    generator = torch.Generator().manual_seed(source.seed)
    return [augment(batch, Distillation(shift=SHIFT, mix=0.0), generator) for batch in source.batches]


def crossed_divergence(errors: np.ndarray, scores: np.ndarray) -> float:
    """Mean KL(softmax(z) || softmax(z + e)) over pairs of an error `[n, c]` and scores `[m, c]`, plus `SURE` standard errors of
    the mean over the errors, of which at most 64 are taken.

    Example:
        >>> crossed_divergence(np.zeros((3, 2)), np.array([[0.0, 1.0]]))
        0.0
    """
    few = errors[np.linspace(0, len(errors) - 1, min(len(errors), ERRORS)).astype(np.int64)].astype(np.float64)
    means = np.array([per_example(scores, scores + error).mean() for error in few])
    return float(means.mean() + SURE * means.std() / math.sqrt(len(means)))


def realised_zeros(plan: Plan, profile: Profile) -> tuple[float, float]:
    """The number of zeros among the weights of the layers that the plan chooses for, and the number of these weights."""
    sizes = {layer.name: layer.weights for layer in profile.layers if layer.name in profile.table}
    zeros = sum(size * plan.realised[name].sparsity for name, size in sizes.items() if name in plan.realised)
    return zeros, float(sum(sizes.values()))
