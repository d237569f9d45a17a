"""The tables of the networks trained by Adam: collect what was measured into `results/adam.json`, and write them in Markdown.

`python -m benchmarks.adam_tables` collects, after `adam_damage`, `adam_allocation`, `adam_steps` and `adam_units`;
`python -m benchmarks.readme` writes the pages.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

RESULT = Path(__file__).parent / "results" / "adam.json"
PREDICTORS = {
    "acc_prior": "accumulators, no data",
    "acc_layer": "accumulators, one number a layer",
    "acc_unfolded": "accumulators without the gain of normalisation",
    "fisher unseen": "Fisher information, 1 024 examples that training never saw",
    "fisher 1024": "Fisher information, 1 024 training examples",
    "fisher 128": "Fisher information, 128",
    "fisher 32": "Fisher information, 32",
    "fisher 8": "Fisher information, 8",
    "trajectory": "increments, recorded without the optimizer's state",
    "error": "relative squared error of the weight",
    "depth": "depth",
}
TAILS = ("soft_rank", "kurtosis", "outlier_ratio", "esd_mid", "esd_peak", "farms", "hill", "block_sum", "stable_rank")


@cache
def results() -> dict[str, Any]:
    """What was collected."""
    return json.loads(RESULT.read_text(encoding="utf-8"))


def _cell(values: list[float]) -> str:
    """A mean over networks with its 95 % interval."""
    from benchmarks.theory import interval

    return "{:.2f} [{:.2f}, {:.2f}]".format(*interval([v if v is not None else np.nan for v in values]))


def predictors() -> Iterator[str]:
    """Rank correlation with the divergence of one layer alone."""
    rows = results()["correlations"]
    count = len(results()["networks"])
    yield f"| rank correlation with the divergence of one layer, mean over {count} networks | {' | '.join(rows)} |"
    yield "|---" * (len(rows) + 1) + "|"
    for key, title in (PREDICTORS | {name: f"`{name}`" for name in TAILS}).items():
        if all(key in rows[level] for level in rows):
            yield f"| {title} | {' | '.join(_cell(rows[level][key]) for level in rows)} |"


def allocations(action: str) -> Iterator[str]:
    """The divergence of whole plans, as a share of the uniform plan's."""
    found = results()["plans"][action]
    names = [name for name in next(iter(found.values())) if all(np.isfinite(one.get(name, np.nan)) for one in found.values())]
    logs = {name: [one.get(name, np.nan) for one in found.values()] for name in names}
    what = "widths at the bytes of 3 bits" if action == "bits" else "70 % zeros"
    yield f"| {what}, {len(found)} networks | share of the uniform plan's divergence | better on |"
    yield "|---|---|---|"
    for name in sorted(names, key=lambda name: np.nanmean(logs[name])):
        from benchmarks.theory import interval

        middle, low, high = np.exp(interval(logs[name]))
        yield f"| {name} | {middle:.2f} [{low:.2f}, {high:.2f}] | {sum(v < 0 for v in logs[name])} |"


def steps() -> Iterator[str]:
    """Accuracy at an eighth of the size, less that of the Fisher rule."""
    found = results()["steps"]
    columns = [name for name in next(iter(found.values()))["rows"]]
    yield f"| network | float, % | {' | '.join(columns)} |"
    yield "|---" * (len(columns) + 2) + "|"
    for name, one in found.items():
        cells = [_step(one["rows"][title], title == columns[0]) for title in columns]
        yield f"| {name} | {100 * one['accuracy']:.1f} | {' | '.join(cells)} |"


def _step(row: dict[str, Any], first: bool) -> str:
    """The accuracy, or the points gained over the first column."""
    if "accuracy" not in row:
        return "too few bytes"
    return f"{100 * row['accuracy']:.1f}" if first or "gain" not in row else f"{row['gain']:+.1f} ± {row['half']:.1f}"


def units() -> Iterator[str]:
    """What each difference between accumulators and Fisher information costs."""
    found = results()["units"]
    columns = [key for key in next(iter(found.values()))]
    yield f"| network, median over layers | {' | '.join(columns)} |"
    yield "|---" * (len(columns) + 1) + "|"
    for name, row in found.items():
        yield f"| {name} | {' | '.join(f'{row[key]:.2f}' for key in columns)} |"


def collect() -> dict[str, Any]:
    """What the benchmarks left in out/adam."""
    from benchmarks import adam_allocation, adam_damage, adam_units
    from benchmarks.adam_zoo import OUT, ZOO

    nets = adam_damage.known()
    kept = {*PREDICTORS, *TAILS}
    correlations = {
        level: {key: [None if np.isnan(v) else round(v, 3) for v in values] for key, values in rows.items() if key in kept}
        for level, rows in adam_damage.correlations(nets).items()
    }
    plans: dict[str, Any] = {}
    for action in adam_allocation.ACTIONS:
        cells = adam_allocation.known(action)
        names = adam_allocation.titles(cells)
        plans[action] = {one["network"]: {t: round(adam_allocation.share(one, t), 3) for t in names} for one in cells}
    steps = {name: json.loads(file.read_text()) for name in ZOO if (file := OUT / f"{name}_steps.json").is_file()}
    return {
        "networks": {one["network"]: {"layers": len(one["layers"]), "accuracy": one["accuracy"]} for one in nets},
        "correlations": correlations,
        "plans": plans,
        "steps": steps,
        "units": {name: row for name in ZOO if (row := adam_units.ratios(name))},
    }


def main() -> None:
    """Collect, and write the file."""
    RESULT.write_text(json.dumps(collect(), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
