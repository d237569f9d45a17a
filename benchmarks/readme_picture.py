"""Draw the README's picture, size against accuracy on ResNet-20: `python -m benchmarks.readme_picture` (extra `plots`).

The drawing holds the digest of the results it was made from; a test compares it with the results.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from benchmarks.frontier_plots import MARKS
from benchmarks.frontier_results import path_of, read, summary
from benchmarks.frontier_rows import ROWS, Row

PICTURE = Path(__file__).resolve().parent.parent / "docs" / "_static" / "resnet20.svg"
NET = "resnet20"
DEEPEST = 2.0  # points of drop that are drawn
FAMILIES = {"int8", "bits", "bytes", "channels"}
NAMES = {"onnxruntime": "onnxruntime static quantization", "NNCF": "NNCF int8", "torch-pruning": "torch-pruning"}
SHOWN = ("edge-int8", "edge-int4", "edge-int3", "edge-int2", "packed", "packed, careful", "smallest")
SETTINGS = {"svg.fonttype": "path", "svg.hashsalt": "readme", "font.size": 9}
LABELS = {  # row -> where its name stands, in points from its mark
    "edge-int8": (8, -12),
    "edge-int4": (4, 6),
    "edge-int3": (4, -12),
    "packed": (-14, -14),
    "packed, careful": (6, 6),
}


def digest() -> str:
    """Of the results that the picture is drawn from."""
    return hashlib.sha256(path_of(NET).read_bytes()).hexdigest()


def main() -> None:
    """Write the SVG."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot, ticker

    found = read(NET)
    first = found["float"]
    with pyplot.rc_context(SETTINGS):
        figure, axis = pyplot.subplots(figsize=(7.2, 3.6), layout="constrained")
        used = {row.tool for row in ROWS if drawn(axis, row, found)}
        axis.plot([first["container"] / 1e3], [first["accuracy"]], marker="*", color="black", ls="", ms=9)
        axis.annotate("float32", (first["container"] / 1e3, first["accuracy"]), (-4, 8), textcoords="offset points", ha="right")
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter(ticker.NullFormatter())
        axis.set_ylim(first["accuracy"] - DEEPEST, first["accuracy"] + 0.8)
        axis.set_xlabel("kilobytes to ship: every file in its container, those of the other tools too")
        axis.set_ylabel("accuracy on 10 000 test images, %")
        handles = [
            pyplot.Line2D([], [], marker=mark, color=colour, ls="", label=NAMES.get(tool, tool))
            for tool, (mark, colour) in MARKS.items()
            if tool in used
        ]
        axis.legend(handles=handles, loc="lower right", frameon=False)
        axis.grid(alpha=0.25)
        metadata = {"Date": None, "Creator": None, "Title": "ResNet-20: size against accuracy", "Description": digest()}
        figure.savefig(PICTURE, format="svg", metadata=metadata)
        pyplot.close(figure)


def drawn(axis: Any, row: Row, found: dict[str, Any]) -> bool:
    """Draw a row, its mean over calibration draws and a bar from best to worst; returns whether it lies in the picture."""
    made = summary(row.name, row.seeds, found)
    ours = row.tool == "dyncompress"
    if made is None or row.family not in FAMILIES or made.drop > DEEPEST or (ours and row.name not in SHOWN):
        return False
    mark, colour = MARKS[row.tool]
    x, accuracy = made.container / 1e3, found["float"]["accuracy"]
    axis.plot([x, x], [accuracy - made.drop_worst, accuracy - made.drop_best], color=colour, lw=1, zorder=3 if ours else 2)
    axis.plot([x], [accuracy - made.drop], marker=mark, color=colour, ls="", ms=6, zorder=3 if ours else 2)
    if ours:
        place = LABELS.get(row.name, (6, -4))
        axis.annotate(row.name, (x, accuracy - made.drop), place, textcoords="offset points", color=colour)
    return True


if __name__ == "__main__":
    main()
