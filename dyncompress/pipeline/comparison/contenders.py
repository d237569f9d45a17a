"""The allocators that are compared, and the tables of distortions that they choose by."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import nan

from dyncompress.allocation import (
    ERK,
    HAWQ,
    LAMP,
    OWL,
    AlphaPruning,
    DepthLinear,
    EqualError,
    EqualShare,
    GlobalMagnitude,
    Knapsack,
    RandomShare,
)
from dyncompress.errors import DyncompressError
from dyncompress.measures import MEASURES
from dyncompress.measures.hessian_trace import HessianTrace
from dyncompress.pipeline.profiling import candidates, learned_prior, probes
from dyncompress.pipeline.profiling.profile import profile_of
from dyncompress.pipeline.task import Task
from dyncompress.recipe.recipe import Recipe
from dyncompress.types import Allocator, Measure, Motion, Profile, Rule
from dyncompress.types.progress import NoStep

NOTHING, SHAPES, WEIGHTS, RECORD, DATA = "nothing", "shapes", "weights", "recorded training", "calibration data"
UNIFORM, ERROR = BASELINES = "uniform", "weight_error"  # that a theory has to beat
THEORY, TRAJECTORY, FISHER, PROBE = "theory", "trajectory", "fisher", "probe"
FISHER_PROBE, JOINED, OUTLIERS, CURVATURE = "fisher_probe", "fisher_trajectory", "owl", "hawq"
LARGEST = 5_000_000  # weights of a network whose Hessian is looked at
SEEDS = 3  # plans that the row `random` averages over
ABSENT = {RECORD: "no recorded training was given: trajectory=run", DATA: "no calibration data were given: calibration=batches"}
MISSING_FISHER = "this model adapter gives no Fisher information"
TOO_LARGE = f"the Hessian of more than {LARGEST:,} weights takes longer than all other allocators together"
# Two nodes have the mean eigenvalue of any number of nodes.
HESSIAN: Mapping[str, Measure] = {"hessian_trace": HessianTrace(nodes=2, batches=2)}
Errors = Mapping[str, Sequence[candidates.Errors]]
Table = Profile | str  # a profile with the distortions to choose by, or why there are none


@dataclass(frozen=True)
class Contender:
    """One row of the comparison.

    Attributes:
        name: of the row.
        reads: what its plan is made from.
        allocators: one, or several whose divergences are averaged.
        table: the distortions that a knapsack chooses by; published rules ignore them.
    """

    name: str
    reads: str
    allocators: tuple[Allocator | Rule, ...] = (Knapsack(),)
    table: str = ERROR


CONTENDERS = (
    Contender(UNIFORM, NOTHING, (EqualShare(),)),
    Contender("random", NOTHING, tuple(RandomShare(seed=seed) for seed in range(SEEDS))),
    Contender("depth_linear", SHAPES, (DepthLinear(),)),
    Contender("erk", SHAPES, (ERK(),)),
    Contender("lamp", WEIGHTS, (LAMP(),)),
    Contender("global_magnitude", WEIGHTS, (GlobalMagnitude(),)),
    Contender("equal_error", WEIGHTS, (EqualError(),)),
    Contender(ERROR, WEIGHTS),
    Contender("alpha_pruning", WEIGHTS, (AlphaPruning(),)),
    Contender("farms", WEIGHTS, (AlphaPruning(measure="farms"),)),
    Contender(THEORY, WEIGHTS, table=THEORY),
    Contender(TRAJECTORY, RECORD, table=TRAJECTORY),
    Contender(OUTLIERS, DATA, (OWL(),), table=OUTLIERS),
    Contender(CURVATURE, DATA, (HAWQ(),), table=CURVATURE),
    Contender(FISHER, DATA, table=FISHER),
    Contender(JOINED, f"{DATA}, {RECORD}", table=JOINED),
    Contender(FISHER_PROBE, DATA, table=FISHER_PROBE),
    Contender(PROBE, DATA, table=PROBE),
)
DATA_FREE_THEORIES = (THEORY, TRAJECTORY, "alpha_pruning", "farms")  # of equal plans, verdicts name the first
INFORMED = (FISHER, FISHER_PROBE, PROBE, CURVATURE, OUTLIERS)


def measures_read(prior: Recipe, *, calibrated: bool, weights: int) -> dict[str, Measure]:
    """The measures that the contenders read, those of the learned prior as it was learned.

    Args:
        prior: a recipe that names the learned prior.
        calibrated: whether there are data for the measures that need them.
        weights: number of weights of the network.
    """
    allocators = [one for rival in CONTENDERS if calibrated or rival.reads != DATA for one in rival.allocators]
    wanted = {name for one in allocators if isinstance(one, Rule) for name in one.measures}
    wanted -= HESSIAN.keys() if weights > LARGEST else set()
    return {**{name: HESSIAN[name] if name in HESSIAN else MEASURES[name]() for name in sorted(wanted)}, **prior.measures}


def tables_of(task: Task, base: Profile) -> dict[str, Table]:
    """Every table of distortions by its name, or why it can't be made.

    Args:
        task: its recipe holds the options, the measures and the learned prior.
        base: measured with that recipe, without the prior and the recorded run; its distortions are those of Fisher information
            where there are data.
    """
    errors, read_fisher = errors_of(base), "fisher" in base.source.values()
    without_data = "" if task.calibrated else ABSENT[DATA]
    without_fisher = without_data or ("" if read_fisher else MISSING_FISHER)
    without_run = "" if task.run is not None else ABSENT[RECORD]
    measures = task.recipe.measures
    of_run = {name: one for name, one in measures.items() if any(isinstance(need, Motion) for need in one.needs)}
    recorded = without_run or _made(lambda: _measured(task, "trajectory", of_run))
    estimates = base.estimates if isinstance(recorded, str) else {**base.estimates, **recorded.estimates}

    def corrected(of: str, probed: float) -> Profile:
        """Distortions by relative errors (`error`) or Fisher information, times the sensitivities of the prior."""
        told = replace(task, recipe=replace(task.recipe, probes=probed))
        log = learned_prior.by_prior(told, estimates, errors, of, NoStep()).log
        source = "theory" if of == "error" else of
        return _with(base, candidates.distortions(errors, source, log, {}), source)

    def by_probes() -> Profile:
        """Distortions by relative errors and one probe of each layer."""
        rates = probes.layer_rates(task, errors, NoStep())
        return _with(base, candidates.distortions(errors, "probe", {}, rates), "probe")

    return {
        ERROR: _with(base, candidates.distortions(errors, "theory", {}, {}), "theory"),
        THEORY: _made(lambda: corrected("error", 0.0)),
        TRAJECTORY: recorded,
        FISHER: without_fisher or base,
        JOINED: without_run or without_fisher or _made(lambda: _measured(task, "fisher", {})),
        FISHER_PROBE: without_fisher or _made(lambda: corrected("fisher", 1.0)),
        PROBE: without_data or _made(by_probes),
        OUTLIERS: without_data or base,
        CURVATURE: without_data or ("" if HESSIAN.keys() <= task.recipe.measures.keys() else TOO_LARGE) or base,
    }


def _measured(task: Task, source: str, measures: Mapping[str, Measure]) -> Profile:
    """The profile with the distortions of one source, beside the recorded run."""
    return profile_of(replace(task, recipe=replace(task.recipe, sensitivity=(source,), measures=measures, priors={})))


def _made(make: Callable[[], Profile]) -> Table:
    """The table, or why it can't be made for this network."""
    try:
        return make()
    except DyncompressError as error:
        return str(error)


def errors_of(profile: Profile) -> dict[str, tuple[candidates.Errors, ...]]:
    """The errors of every option, each of which either prunes or rounds."""
    return {
        unit: tuple(
            candidates.Errors(
                choice=option.choice,
                pruning=error if option.choice.sparsity else 0.0,
                rounding=0.0 if option.choice.sparsity else error,
                output=option.distortion,
                motion=nan,
                change=option.change,
            )
            for option in options
            for error in [0.0 if option.change is None else option.change.error]
        )
        for unit, options in profile.table.items()
    }


def _with(profile: Profile, distortions: Mapping[str, Sequence[float]], source: str) -> Profile:
    """The profile with other distortions."""
    table = {
        unit: tuple(replace(option, distortion=value) for option, value in zip(options, distortions[unit], strict=True))
        for unit, options in profile.table.items()
    }
    return replace(profile, table=table, source=dict.fromkeys(table, source))
