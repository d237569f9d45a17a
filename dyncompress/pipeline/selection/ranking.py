"""The verb `rank`: checkpoints in the order of the generalization gap that measures predict, judged by the gaps where given."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from dyncompress.errors import InvalidRequest, nearest
from dyncompress.measures import MEASURES
from dyncompress.pipeline.selection.prediction import KINDS, Prediction, prediction
from dyncompress.pipeline.selection.rank_correlation import FEWEST, agreement
from dyncompress.pipeline.selection.reading import Examples, checkpoint, estimates
from dyncompress.types import Estimate, Measure
from dyncompress.types.progress import SILENT, Progress
from dyncompress.types.ranking import Agreement, Ranking, Row, Setting

INDICATOR = (
    "These are indicators, not a certificate: no bound with computed constants stands behind them. `certify` makes a certificate."
)
LEARNED = "learned from these gaps: the order is no prediction of them"


class Checkpoints(Protocol):
    """A mapping of names, which may load what a name stands for when it is asked for."""

    def keys(self) -> Collection[str]:
        """The names."""
        ...

    def __getitem__(self, name: str, /) -> Any:
        """What `rank` calls a checkpoint."""
        ...


def rank(
    checkpoints: Checkpoints,
    measures: str | Sequence[str | Measure] | Mapping[str, Measure],
    *,
    gaps: Mapping[str, float] | None = None,
    hyperparameters: Mapping[str, Mapping[str, Setting]] | None = None,
    calibration: Any = None,
    example: Any = None,
    progress: Progress = SILENT,
) -> Ranking:
    """Order checkpoints by the generalization gap that measures predict.

    Measures of a trajectory are read off the whole run, the others layer by layer and put together (`prediction.PREDICTIONS`).
    Several measures vote: the mean of a checkpoint's places counts, and no weights are learned. With gaps, every measure's order
    is compared with theirs: Kendall's tau; given hyper-parameters, granulated coefficients of each and their mean (Jiang et al.,
    ICLR 2020) and the partial rank correlation, all with bootstrap intervals over checkpoints.

    Args:
        checkpoints: name -> torch module, trajectory (or its `.npz`), or (module, trajectory); read one at a time. Measures of
            Fisher information take what `load_training_state` reads or returns, or the optimizer, in the trajectory's place.
        measures: names of `measures.MEASURES` or measures; or name -> measure, to have one measure with several settings.
        gaps: name -> measured gap, test minus train in any unit; of all checkpoints or of some.
        hyperparameters: name -> {"learning_rate": 0.1, ...}, numbers or words; `batch_size` also serves Fisher information.
        calibration: batches, where measures observe networks on data.
        example: one batch of inputs, where there are none.
        progress: receives the phases of the work.

    Raises:
        InvalidRequest: fewer than two checkpoints, unknown names, infinite gaps, or a measure without its values or a sign.

    Example:
        >>> import dyncompress, torch
        >>> runs = {name: torch.nn.Linear(64, 64) for name in ("first", "second", "third")}
        >>> dyncompress.rank(runs, ["esd_mid"], example=torch.randn(2, 64)).best in runs
        True
    """
    tools = _measures(measures)
    if not hasattr(checkpoints, "keys"):
        raise InvalidRequest(f"rank: the checkpoints are a {type(checkpoints).__name__}; give a mapping, name -> checkpoint.")
    names = list(checkpoints.keys())
    if len(names) < 2:
        raise InvalidRequest(f"rank: {len(names)} checkpoint{'' if len(names) == 1 else 's'} can't be ordered; give two or more.")
    measured = _gaps(gaps, names)
    chosen = _settings(hyperparameters, names)
    predictions = {name: prediction(measure) for name, measure in tools.items()}
    if not measured and (blind := [name for name, one in predictions.items() if not one.sign]):
        raise InvalidRequest(f"rank: no theory says whether the gap grows with {blind[0]}; give gaps to learn it from.")
    examples = _examples(calibration, example)
    table: dict[str, dict[str, Estimate]] = {}
    with progress.phase("measure the checkpoints", len(names)) as step:
        for name in names:
            table[name] = estimates(checkpoint(name, checkpoints[name], _batch_size(chosen.get(name))), tools, examples)
            step.advance()
    values = {tool: np.array([table[name][tool].value for name in names]) for tool in tools}
    agreements = _agreements(values, names, measured, chosen)
    predictions, agreements = _signed(predictions, agreements)
    means = _mean_places(np.stack([_places(predictions[tool].sign * values[tool]) for tool in tools]))
    order = np.argsort(means, kind="stable")  # nan comes last
    rows = tuple(Row(names[i], float(means[i]), table[names[i]], measured.get(names[i]), chosen.get(names[i], {})) for i in order)
    return Ranking(rows, predictions, agreements, _notes(rows, predictions, measured))


def _mean_places(places: np.ndarray) -> np.ndarray:
    """The mean `[n]` of the finite numbers in each column of `[measures, n]`; nan where a column has none."""
    known = np.isfinite(places)
    total = np.where(known, places, 0.0).sum(axis=0)
    return np.divide(total, known.sum(axis=0), out=np.full(places.shape[1], np.nan), where=known.any(axis=0))


def _measures(given: str | Sequence[str | Measure] | Mapping[str, Measure]) -> dict[str, Measure]:
    """Name -> measure."""
    if isinstance(given, Mapping):
        measures = dict(given)
    else:
        measures = {}
        for one in [given] if isinstance(given, str) else given:
            name = one if isinstance(one, str) else KINDS.get(type(one), type(one).__name__)
            if name in measures:
                raise InvalidRequest(f"rank: measure '{name}' is given twice; name the two in a mapping, name -> measure.")
            if isinstance(one, str) and one not in MEASURES:
                raise InvalidRequest(f"rank: there is no measure '{one}'{nearest(one, MEASURES)}")
            measures[name] = MEASURES[one]() if isinstance(one, str) else one
    if not measures:
        raise InvalidRequest("rank: no measure is given; name one, e.g. 'lifetime_sum'.")
    for name, measure in measures.items():
        if not isinstance(measure, Measure) or isinstance(measure, type):
            raise InvalidRequest(f"rank: '{name}' is a {type(measure).__name__}; give a measure, or the name of one.")
    return measures


def _gaps(gaps: Mapping[str, float] | None, names: Sequence[str]) -> dict[str, float]:
    """The gaps, checked; empty where none are given."""
    checked = {}
    for name, gap in (gaps or {}).items():
        if name not in names:
            raise InvalidRequest(f"gaps: there is no checkpoint '{name}'{nearest(name, names)}")
        if isinstance(gap, bool) or not isinstance(gap, int | float | np.number) or not math.isfinite(gap):
            raise InvalidRequest(f"gaps: that of checkpoint '{name}' is {gap!r}; give a finite number, or leave it out.")
        checked[name] = float(gap)
    if gaps is not None and len(checked) < FEWEST:
        raise InvalidRequest(f"gaps: {len(checked)} of {len(names)} checkpoints have one; a correlation takes {FEWEST}.")
    return checked


def _settings(given: Mapping[str, Mapping[str, Setting]] | None, names: Sequence[str]) -> dict[str, dict[str, Setting]]:
    """The hyper-parameters, checked; empty where none are given."""
    if given is None:
        return {}
    if unknown := [name for name in given if name not in names]:
        raise InvalidRequest(f"hyperparameters: there is no checkpoint '{unknown[0]}'{nearest(unknown[0], names)}")
    keys: set[str] | None = None
    for name in names:
        if name not in given:
            raise InvalidRequest(f"hyperparameters: those of checkpoint '{name}' are missing; give the same ones for all.")
        keys = set(given[name]) if keys is None else keys
        if set(given[name]) != keys:
            apart = ", ".join(sorted(keys ^ set(given[name])))
            raise InvalidRequest(f"hyperparameters: checkpoint '{name}' differs in {apart}; give the same ones for all.")
        for key, value in given[name].items():
            if not isinstance(value, str | int | float | np.number) or (not isinstance(value, str) and not math.isfinite(value)):
                raise InvalidRequest(f"hyperparameters: '{key}' of checkpoint '{name}' is {value!r}; give a number or a word.")
    return {name: dict(given[name]) for name in names}


def _batch_size(settings: Mapping[str, Setting] | None) -> int:
    """The hyper-parameter `batch_size` if it is a number of examples; else 0."""
    size = (settings or {}).get("batch_size", 0)
    return 0 if isinstance(size, str) or size < 1 else round(size)


def _examples(calibration: Any, example: Any) -> Examples:
    """The data, readable once for every checkpoint."""
    data = example if calibration is None else calibration
    if data is None or isinstance(data, Mapping | tuple | list | str | Path) or hasattr(data, "shape"):
        return Examples(data, calibration is not None)
    return Examples(list(data), calibration is not None)


def _agreements(
    values: Mapping[str, np.ndarray], names: Sequence[str], gaps: Mapping[str, float], chosen: Mapping[str, Mapping[str, Setting]]
) -> dict[str, Agreement]:
    """Correlations of every measure, as it is, with the gaps."""
    if not gaps:
        return {}
    judged = [i for i, name in enumerate(names) if name in gaps]
    measured = np.array([gaps[names[i]] for i in judged])
    keys = list(next(iter(chosen.values()))) if chosen else []
    settings = {key: [chosen[names[i]][key] for i in judged] for key in keys} or None
    return {tool: agreement(column[judged], measured, settings) for tool, column in values.items()}


def _signed(
    predictions: Mapping[str, Prediction], agreements: Mapping[str, Agreement]
) -> tuple[dict[str, Prediction], dict[str, Agreement]]:
    """Unknown signs learned from the gaps, and correlations turned so that 1 means the predicted order."""
    signed, turned = dict(predictions), dict(agreements)
    for name, measured in agreements.items():
        if not predictions[name].sign:
            sign = -1 if measured.kendall.value < 0 else 1
            signed[name] = replace(predictions[name], sign=sign, source=LEARNED)
        if signed[name].sign < 0:
            turned[name] = measured.negated()
    return signed, turned


def _places(predicted: np.ndarray) -> np.ndarray:
    """1 for the smallest, ties shared, nan for nan."""
    known = np.isfinite(predicted)
    below = (predicted[:, None] > predicted).sum(axis=1)
    equal = (predicted[:, None] == predicted).sum(axis=1)
    return np.where(known, below + (equal + 1) / 2, np.nan)


def _notes(rows: Sequence[Row], predictions: Mapping[str, Prediction], gaps: Mapping[str, float]) -> tuple[str, ...]:
    """Notes that a reader of the ranking needs."""
    notes = [INDICATOR]
    notes += [f"{name}: sign {one.source}." for name, one in predictions.items() if one.source == LEARNED]
    if gaps and len(gaps) < len(rows):
        notes.append(f"{len(rows) - len(gaps)} of {len(rows)} checkpoints have no gap and enter no correlation.")
    for name in predictions:
        doubtful = [row.checkpoint for row in rows if not row.estimates[name].valid]
        if doubtful:
            why = next((note for row in rows if not row.estimates[name].valid for note in row.estimates[name].notes), "")
            where = f"{len(doubtful)} of {len(rows)} checkpoints ({doubtful[0]}: {why})"
            notes.append(f"{name}: outside its own conditions for {where}.")
    return tuple(notes)
