"""The gallery's tables in Markdown, from the cells of `results/gallery.json`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from benchmarks import cells

RESULTS = Path(__file__).parent / "results" / "gallery.json"
SECONDS = RESULTS.with_name("gallery_seconds.json")
SENTENCES = RESULTS.with_name("sentences.json")
OTHERS = RESULTS.with_name("other_models.json")
PRUNED = RESULTS.with_name("pruned_transformer.json")
PRUNED_METHODS, PRUNED_PARTS = ("ours", "CORP", "ranking alone"), ("units", "heads", "units and heads")
FLOAT, OURS, STATIC = "float", "edge-int8", "onnxruntime static"
HEADS = ("row", "tool", "bytes", "metric [95 % of the difference]", "outputs differ", "ms, batch 1", "left alone")
MORE_HEADS = ("seconds (processor)", "certificate")


def told(key: str, cell: cells.Cell) -> str:
    """The line that is printed for a finished cell."""
    if cell["verdict"] != "ok":
        return f"{key}: {cell['verdict']}: {cell['error']}"
    return f"{key}: {cell['bytes']:,} bytes, {metric_text(cell)}, outputs differ by {percent(cell['relative_difference'])}"


def table(found: Mapping[str, cells.Cell]) -> str:
    """The table of the finished cells, by `row | tool`; a failure has its reason in place of the metric."""
    lines = [line((*HEADS, *MORE_HEADS)), line(["---"] * (len(HEADS) + len(MORE_HEADS)))]
    for key, cell in found.items():
        row, _, tool = key.partition(" | ")
        if cell["verdict"] != "not needed":
            lines.append(line([row, f"`{tool}`" if tool == OURS else tool, *columns(cell)]))
    return "\n".join(lines)


def models(found: Mapping[str, cells.Cell]) -> str:
    """The table of the models: who made them, what is measured, and on how many independent units."""
    lines = [line(("row", "made by", "opset", "metric", "units")), line(["---"] * 5)]
    for key, cell in found.items():
        row, _, tool = key.partition(" | ")
        if tool == FLOAT and cell["verdict"] == "ok":
            lines.append(line([row, cell["made_by"], str(cell["opset"]), cell["metric"], f"{cell['units']:,}"]))
    return "\n".join(lines)


def site() -> Iterable[str]:
    """The lines of both tables."""
    found = cells.read(RESULTS)
    yield models(found)
    yield ""
    yield table(found)


def seconds_table(found: Mapping[str, cells.Cell]) -> str:
    """The table of how long compression takes, from the cells of `results/gallery_seconds.json`."""
    head = ("row", f"seconds, `{OURS}`", f"seconds, {STATIC}", "ratio")
    rows = [
        line([key, *(f"{cell['seconds'][tool]:.1f}" for tool in (OURS, STATIC)), f"{cell['ratio']:.1f}x"])
        for key, cell in found.items()
        if "ratio" in cell
    ]
    return "\n".join([line(head), line(["---"] * len(head)), *rows])


def seconds() -> Iterable[str]:
    """The lines of that table on the site."""
    yield seconds_table(cells.read(SECONDS))


def sentences_table(found: Mapping[str, cells.Cell]) -> str:
    """The table of all-MiniLM-L6-v2, from the cells of `results/sentences.json`."""
    head = ("recipe", "bytes", "Spearman, points", "change", "faster, batch 1", "seconds", "peak memory / float file")
    rows = [line(head), line(["---"] * len(head))]
    for key, cell in found.items():
        if "bytes" not in cell:
            rows.append(line([key, "-", f"{cell['spearman']:.2f}", "-", "-", "-", "-"]))
            continue
        change = cell["spearman"] - found["float"]["spearman"] if "float" in found else float("nan")
        size = f"{cell['bytes']:,} of {cell['float_bytes']:,}"
        memory_ratio = f"{cell['memory'] / cell['float_bytes']:.0f}x"
        faster = f"{cell['faster']:.2f}x" if "faster" in cell else "-"
        spearman = f"{cell['spearman']:.2f}"
        rows.append(line([f"`{key}`", size, spearman, f"{change:+.2f}", faster, f"{cell['seconds']:.0f}", memory_ratio]))
    return "\n".join(rows)


def sentences() -> Iterable[str]:
    """The lines of that table on the site."""
    yield sentences_table(cells.read(SENTENCES))


def line(values: Iterable[str]) -> str:
    """A line of a table."""
    return f"| {' | '.join(value.replace('|', '/') for value in values)} |"


def columns(cell: cells.Cell) -> list[str]:
    """The columns of a cell from `bytes` on."""
    if cell["verdict"] != "ok":
        return ["-", f"{cell['verdict']}: {cell['error']}", *["-"] * 5]
    first = "seconds" not in cell  # of the float file, which no tool made
    size, milliseconds = f"{cell['bytes']:,}", "-"
    if "milliseconds" in cell:
        milliseconds = f"{cell['milliseconds']:.3g}" + ("" if first else f" ({cell['times_ratio']:.2f}x)")
    return [
        size if first else f"{size} ({cell['bytes_ratio']:.2f}x)",
        metric_text(cell),
        "-" if first else percent(cell["relative_difference"]),
        milliseconds,
        f"{100 * cell['left_alone']:.1f} %" if "left_alone" in cell else "-",
        "-" if first else f"{cell['seconds']:.0f} ({cell['cpu_seconds']:.0f})",
        certificate_text(cell),
    ]


def metric_text(cell: cells.Cell) -> str:
    """The metric in per cent, and the interval of its difference to the float file in points."""
    mean = f"{100 * cell['mean']:.2f} %"
    if "seconds" not in cell or None in cell["difference_interval"]:
        return mean
    low, high = (100 * end for end in cell["difference_interval"])
    return f"{mean} [{low:+.2f}, {high:+.2f}]"


def percent(share: float | str | None) -> str:
    """A share in per cent with two digits; `-` where it isn't a number."""
    return f"{100 * share:.2g} %" if isinstance(share, int | float) else "-"


def certificate_text(cell: cells.Cell) -> str:
    """What the certificate bounds and its upper end, or why there is none."""
    if "upper" in cell:
        return f"{cell['quantity']} at most {cell['upper']:.4f}"
    return f"none: {cell['certificate_error']}" if "certificate_error" in cell else "-"


def others_table(found: Mapping[str, cells.Cell]) -> str:
    """The table of models that others report as broken, from the cells of `results/other_models.json`."""
    head = ("model", "recipe", "bytes", "error of each output", "its worst channel", "left alone")
    rows = [line(head), line(["---"] * len(head))]
    for key, cell in found.items():
        name, recipe = key.split(" | ")
        if cell["verdict"] != "ok":
            rows.append(line([name, f"`{recipe}`", "-", f"refused: {cell['sentence']}", "-", "-"]))
            continue
        outputs = cell["outputs"].values()
        errors = ", ".join(percent(output["error"]) for output in outputs)
        channels = ", ".join(f"{output['channel']}: {percent(output['channel_error'])}" for output in outputs)
        size = f"{cell['bytes']:,} ({cell['bytes'] / cell['float_bytes']:.2f}x)"
        rows.append(line([name, f"`{recipe}`", size, errors, channels, f"{100 * cell['left_alone']:.1f} %"]))
    return "\n".join(rows)


def others() -> Iterable[str]:
    """The lines of that table on the site."""
    yield others_table(cells.read(OTHERS))


def pruned_table(found: Mapping[str, cells.Cell]) -> str:
    """A line for each part and share, a column for each method."""
    rows = [line(("removed", "MACs left", *PRUNED_METHODS)), line(["---"] * (2 + len(PRUNED_METHODS)))]
    if "float" in found:
        rows.append(line(("nothing", "100 %", f"{found['float']['spearman']:.2f}", "", "")))
    for share in (25, 50):
        for part in PRUNED_PARTS:
            here = [found.get(f"{method} | {part} | {share} %") for method in PRUNED_METHODS]
            macs = next((f"{100 * cell['macs']:.0f} %" for cell in here if cell), "-")
            values = [f"{cell['spearman']:.2f} ({cell['cosine']:.3f})" if cell else "-" for cell in here]
            rows.append(line((f"{share} % of {part}", macs, *values)))
    return "\n".join(rows)


def pruned() -> Iterable[str]:
    """The lines of that table on the site."""
    yield pruned_table(cells.read(PRUNED))
