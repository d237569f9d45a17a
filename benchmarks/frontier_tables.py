"""The frontier's tables in Markdown: with all rows between markers of `benchmarks/README.md`, in short for the site."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.frontier_results import RESULTS, Summary, read, summary
from benchmarks.frontier_rows import FAMILIES, ROWS, TUNED, Aim, Row

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- frontier -->\n", "<!-- /frontier -->"
PAGES = {ROOT / "benchmarks" / "README.md": False}  # page -> whether in short
HEAD = (
    "| row | trained | drop, points: mean [best, worst seed] | 95 % of the worst, up to | ONNX file | container | its payload "
    "| MACs | ms, batch 1 | batch 16 | seconds (processor) |"
)
SHORT_HEAD = "| row | drop, points: mean [best, worst] | ONNX file | container | MACs | faster, batch 1 | batch 16 | seconds |"


def write_all() -> None:
    """Rewrite the block of every page that has the markers."""
    for path, text in rendered():
        path.write_text(text)


def up_to_date() -> bool:
    """Whether the pages say what the JSON files say."""
    return all(path.read_text() == text for path, text in rendered())


def rendered() -> Iterable[tuple[Path, str]]:
    """(page, its new text) of every page that has the markers."""
    for path, short in PAGES.items():
        text = path.read_text() if path.exists() else ""
        if BEGIN in text:
            head, rest = text.split(BEGIN)
            yield path, head + BEGIN + "\n".join(block(short)) + "\n" + END + rest.split(END)[1]


def block(short: bool) -> list[str]:
    """All tables of all networks that have results."""
    nets = sorted(path.stem.removeprefix("frontier_") for path in RESULTS.glob("frontier_*.json"))
    lines = [line for net in nets for line in tables(net, read(net), short)]
    return lines if short else [*lines, *tuned()]


def tables(net: str, found: Mapping[str, Any], short: bool = False) -> list[str]:
    """The tables of one network, family by family; in short, one table of the headline rows."""
    first, title = found["float"], net.replace("resnet", "ResNet-")
    lines = [
        f"{'**' if short else '### '}{title}{'**' if short else ''}",
        "",
        f"float32: {first['bytes']:,} bytes, {first['macs'] / 1e6:.1f} M MACs, {first['accuracy']:.2f} %{original_times(found)}.",
        "",
    ]
    rows = [(row, summary(row.name, row.seeds, found)) for row in ROWS if row.headline or not short]
    done = [(row, made) for row, made in rows if made is not None]
    if short:
        return [*lines, SHORT_HEAD, rule(SHORT_HEAD), *(short_line(row, made) for row, made in done), ""]
    for family, words in FAMILIES.items():
        chosen = [(row, made) for row, made in done if row.family == family]
        if chosen:
            lines += [f"{words}:", "", HEAD, rule(HEAD), *(line(row, made) for row, made in chosen), ""]
            lines += verdicts(net, chosen)
    lines += busy(found)
    lines += seconds([(row, made) for row, made in done if row.tool == "dyncompress"])
    return [*lines, f"![accuracy against bytes, MACs and milliseconds](results/frontier_{net}.svg)", ""]


def rule(head: str) -> str:
    """The line under a table's head."""
    return "|" + "---|" * (head.count("|") - 1)


def original_times(found: Mapping[str, Any]) -> str:
    """Milliseconds of the float32 file."""
    batches = {int(batch): times["float32"]["median"] for batch, times in found["timings"].items() if batch.isdigit()}
    return "".join(f", {1e3 * seconds:.2f} ms at batch {batch}" for batch, seconds in sorted(batches.items()))


def drop(made: Summary) -> str:
    """Mean and range over the seeds."""
    if len(made.seeds) == 1:
        return f"{made.drop:+.2f} (one seed)"
    return f"{made.drop:+.2f} [{made.drop_best:+.2f}, {made.drop_worst:+.2f}]"


def line(row: Row, made: Summary) -> str:
    """One row of a full table; ratios are the worst seed's."""
    times = [f"{made.milliseconds[b]:.3f} ({made.faster[b]:.2f}x)" if b in made.faster else "-" for b in (1, 16)]
    cells = [
        row.name if row.tool != "dyncompress" else f"**{row.name}**",
        row.trained or "-",
        drop(made),
        f"{made.drop_high:+.2f}",
        f"{made.bytes:,.0f} ({made.file_ratio:.2f}x)",
        f"{made.container:,.0f} ({made.container_ratio:.2f}x)",
        f"{made.coded_payload_ratio:.2f}x",
        f"{made.macs_ratio:.2f}x",
        *times,
        f"{made.seconds:.0f} ({made.cpu_seconds:.0f})",
    ]
    return "| " + " | ".join(cells) + " |"


def short_line(row: Row, made: Summary) -> str:
    """One row of the short table."""
    times = [f"{made.faster[b]:.2f}x" if b in made.faster else "-" for b in (1, 16)]
    cells = [
        row.name if row.tool != "dyncompress" else f"`{row.name}`",
        drop(made),
        f"{made.file_ratio:.1f}x smaller",
        f"{made.container_ratio:.1f}x",
        f"{made.macs_ratio:.2f}x fewer",
        *times,
        f"{made.seconds:.0f}",
    ]
    return "| " + " | ".join(cells) + " |"


def busy(found: Mapping[str, Any]) -> list[str]:
    """A sentence where entries were made beside other work, whose wall time then says little."""
    entries = found["rows"].values()
    count = sum(entry["load"] > entry["threads"] + 0.75 for entry in entries)
    if not count:
        return []
    return [f"{count} of {len(entries)} entries were made on a busy machine: there read processor seconds, not seconds.", ""]


def seconds(chosen: Iterable[tuple[Row, Summary]]) -> list[str]:
    """Where the time of each row went, longest first; phases under a second together."""
    lines = []
    for row, made in chosen:
        long = sorted(((s, name) for name, s in made.phases.items() if s >= 1), reverse=True)
        rest = sum(s for s in made.phases.values() if s < 1)
        parts = ", ".join([*(f"{name} {s:.1f}" for s, name in long), f"the rest {rest:.1f}"])
        lines.append(f"- {row.name}: {parts}.")
    return ["Seconds by phase:", "", *lines, ""] if lines else []


def verdicts(net: str, chosen: Iterable[tuple[Row, Summary]]) -> list[str]:
    """For each row with an aim on this network: what was asked of its worst seed, and what falls short."""
    lines = []
    for row, made in chosen:
        if net in row.aims:
            short = shortfalls(row.aims[net], made)
            verdict = f"short of it, {'; '.join(short)}" if short else "reached"
            lines.append(f"- {row.name}: aim {words(row.aims[net])}: {verdict}.")
    return [*lines, ""] if lines else []


def words(aim: Aim) -> str:
    """An aim in words."""
    parts = [f"drop <= {aim.drop:g}"]
    parts += [f"payload {aim.payload:g}x"] * bool(aim.payload)
    parts += [f"container {aim.container:g}x"] * bool(aim.container)
    parts += [f"MACs {aim.macs:g}x"] * bool(aim.macs)
    parts += [f"{aim.faster[0]:g}x and {aim.faster[1]:g}x faster"] * any(aim.faster)
    return ", ".join([*parts, *[f"{aim.seconds:g} s"] * bool(aim.seconds)])


def shortfalls(aim: Aim, made: Summary) -> list[str]:
    """What of an aim the worst seed doesn't reach; what wasn't timed counts as not reached."""
    checks = [
        (made.drop_worst <= aim.drop, f"drop {made.drop_worst:.2f}"),
        (made.coded_payload_ratio >= aim.payload, f"payload {made.coded_payload_ratio:.2f}x"),
        (made.container_ratio >= aim.container, f"container {made.container_ratio:.2f}x"),
        (made.macs_ratio >= aim.macs, f"MACs {made.macs_ratio:.2f}x"),
        (not aim.seconds or made.seconds <= aim.seconds, f"{made.seconds:.0f} s"),
    ]
    for batch, times in zip((1, 16), aim.faster, strict=True):
        reached = made.faster.get(batch, 0.0)
        checks.append((reached >= times, f"batch {batch} {reached:.2f}x" if reached else f"batch {batch} not timed"))
    return [words for ok, words in checks if not ok]


def tuned() -> list[str]:
    """What was tuned, how often, and on what."""
    head = "| rows | what was tuned | configurations tried | compared by |"
    lines = [f"| {t.rows} | {t.what} | {t.tried} | {t.compared_by} |" for t in TUNED]
    return ["### What was tuned on what", "", head, rule(head), *lines]
