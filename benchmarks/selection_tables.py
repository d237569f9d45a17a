"""Write the tables of `benchmarks.selection` into two Markdown pages. Run: `python -m benchmarks.selection_tables`."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "selection.json"
BEGIN, END = "<!-- selection -->\n", "<!-- /selection -->"
GAPS = ("error gap", "loss gap")
AXES = ("rate", "batch", "depth")
SIGNS = {1: "+", -1: "−", 0: "?"}
GRIDS = {"mnist": "perceptrons on digits", "cifar": "convolutional nets on CIFAR"}


def cell(part: dict[str, float | None] | None) -> str:
    """A coefficient with its interval; bold if the interval excludes 0."""
    value, low, high = (math.nan if part is None or part[key] is None else part[key] for key in ("value", "low", "high"))
    if math.isnan(value):
        return "–"
    text = f"{_short(value)} [{_short(low)}, {_short(high)}]"
    return f"**{text}**" if low > 0 or high < 0 else text


def _short(value: float | None) -> str:
    """A signed number with two digits and without a negative zero; a dash for a missing value."""
    return "–" if value is None or math.isnan(value) else f"{round(value, 2) + 0.0:+.2f}"


def whole_table(correlations: dict[str, Any]) -> str:
    """The table of every coefficient of one grid and one gap."""
    lines = ["| measure | sign | Kendall | rate | batch | depth | Psi | partial | seed |", "|---" * 9 + "|"]
    for name, part in correlations.items():
        axes = " | ".join(_short(part["granulated"][key]["value"]) for key in AXES)
        first, mean, partial = (cell(part[key]) for key in ("kendall", "mean_granulated", "partial"))
        seed = cell(part["granulated"].get("seed"))
        lines.append(f"| {name} | {SIGNS[part['sign']]} | {first} | {axes} | {mean} | {partial} | {seed} |")
    return "\n".join(lines)


def short_table(results: dict[str, Any]) -> str:
    """The table of Psi of every measure, for each grid and gap."""
    columns = [(grid, gap) for grid in GRIDS if grid in results for gap in GAPS]
    names = " | ".join(f"{grid}, {gap}" for grid, gap in columns)
    lines = [f"| measure | sign | {names} |", "|---" * (2 + len(columns)) + "|"]
    first = results[columns[0][0]]["correlations"][columns[0][1]]
    for name, part in first.items():
        cells = [cell(results[grid]["correlations"][gap][name]["mean_granulated"]) for grid, gap in columns]
        lines.append(f"| {name} | {SIGNS[part['sign']]} | {' | '.join(cells)} |")
    return "\n".join(lines)


def runs_line(grid: str, result: dict[str, Any]) -> str:
    """A line with the number of runs, the range of their gaps, and the runs that were left out."""
    spans = ", ".join(f"{gap} {_span([run[gap] for run in result['runs']])}" for gap in GAPS)
    out = ", ".join(f"rate {r['rate']:g} batch {r['batch']} depth {r['depth']} seed {r['seed']}" for r in result["left out"])
    return f"{GRIDS[grid].capitalize()}: {len(result['runs'])} runs; {spans}; left out: {out or 'none'}."


def _span(values: Sequence[float]) -> str:
    return f"{min(values):.2f} to {max(values):.2f}"


def pages(results: dict[str, Any]) -> dict[Path, str]:
    """Page -> the text between its markers."""
    whole = []
    for grid in GRIDS:
        if grid in results:
            whole.append(runs_line(grid, results[grid]))
            whole += [
                f"**{grid}, {gap}** ({'points' if gap == 'error gap' else 'nats'})\n\n"
                + whole_table(results[grid]["correlations"][gap])
                for gap in GAPS
            ]
    return {
        ROOT / "docs" / "theory" / "model_selection.md": "\n\n".join(whole),
        ROOT / "benchmarks" / "README.md": short_table(results),
    }


def main() -> None:
    """Write the tables into both pages."""
    for page, block in pages(json.loads(RESULTS.read_text())).items():
        head, rest = page.read_text().split(BEGIN)
        page.write_text(head + BEGIN + block + "\n" + END + rest.split(END)[1])


if __name__ == "__main__":
    main()
