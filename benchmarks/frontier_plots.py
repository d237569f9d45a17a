"""Plots of accuracy against bytes, MACs and milliseconds, one SVG for each network. Equal results give equal bytes.

Needs matplotlib (the extra `plots`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.frontier_results import RESULTS, Summary, read, summary
from benchmarks.frontier_rows import FAMILIES, ROWS, Row

DEEPEST = 12.0  # largest drop, in points, that is drawn as a point; rows below it are arrows at the edge
MARKS = {
    "dyncompress": ("o", "#1b6ca8"),
    "torch-pruning": ("s", "#c8553d"),
    "onnxruntime": ("^", "#588157"),
    "NNCF": ("D", "#8d6a9f"),
}
SETTINGS = {"svg.fonttype": "none", "svg.hashsalt": "frontier", "font.size": 8, "path.simplify": True}
Drawn = Sequence[tuple[Row, Summary]]


def write_all() -> None:
    """Write a plot for every network that has results."""
    for path in sorted(RESULTS.glob("frontier_*.json")):
        net = path.stem.removeprefix("frontier_")
        draw(net, read(net), path.with_suffix(".svg"))


def draw(net: str, found: Mapping[str, Any], path: Path) -> None:
    """Draw three panels with a common accuracy axis: the mean over seeds, and a bar from the best to the worst seed."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot, ticker

    made = [(row, summary(row.name, row.seeds, found)) for row in ROWS]
    done: Drawn = [(row, result) for row, result in made if result is not None]
    first = found["float"]
    panels: list[tuple[str, Callable[[Summary], float | None], float | None, set[str]]] = [
        ("kilobytes of the container", lambda s: s.container / 1e3, first["container"] / 1e3, set(FAMILIES) - {"channels"}),
        ("million multiply-accumulates", lambda s: s.macs / 1e6, first["macs"] / 1e6, {"channels"}),
        ("milliseconds, batch 1", lambda s: s.milliseconds.get(1), _float_milliseconds(found), {"channels", "int8"}),
    ]
    with pyplot.rc_context(SETTINGS):
        figure, axes = pyplot.subplots(1, 3, figsize=(11, 3.6), sharey=True, layout="constrained")
        for axis, (label, position, original, named) in zip(axes, panels, strict=True):
            _panel(axis, done, position, first["accuracy"], original, named)
            axis.set_xlabel(label)
        axes[0].set_xscale("log")
        axes[0].xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axes[0].xaxis.set_major_formatter("{x:g}")
        axes[0].xaxis.set_minor_formatter(ticker.NullFormatter())
        axes[0].set_ylabel(f"accuracy, % (arrows: more than {DEEPEST:g} points lost)")
        used = {row.tool for row, _ in done}
        handles = [pyplot.Line2D([], [], marker=m, color=c, ls="", label=tool) for tool, (m, c) in MARKS.items() if tool in used]
        axes[2].legend(handles=handles, loc="lower right", frameon=False)
        figure.suptitle(net.replace("resnet", "ResNet-"))
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
        pyplot.close(figure)


def _float_milliseconds(found: Mapping[str, Any]) -> float | None:
    times = found["timings"].get("1")
    return None if times is None else 1e3 * times["float32"]["median"]


def _panel(
    axis: Any, done: Drawn, position: Callable[[Summary], float | None], accuracy: float, original: float | None, named: set[str]
) -> None:
    """Draw rows as points and the original as a star; rows of this library in the families `named` are labelled."""
    lowest = accuracy - DEEPEST
    for row, made in done:
        x = position(made)
        if x is None:
            continue
        mark, colour = MARKS[row.tool]
        if made.drop > DEEPEST:
            axis.plot([x], [lowest], marker="v", color=colour, ls="", ms=4, alpha=0.6)
            continue
        worst = max(accuracy - made.drop_worst, lowest)
        axis.plot([x, x], [worst, accuracy - made.drop_best], color=colour, lw=0.8)
        axis.plot([x], [accuracy - made.drop], marker=mark, color=colour, ls="", ms=4)
        if row.tool == "dyncompress" and row.family in named:
            axis.annotate(row.name, (x, accuracy - made.drop), (4, -7), textcoords="offset points", fontsize=6, color=colour)
    if original is not None:
        axis.plot([original], [accuracy], marker="*", color="black", ls="", ms=8)
    axis.axhline(accuracy - 1, color="grey", lw=0.5, ls=":")
    axis.grid(alpha=0.2)
