"""`compare` on a few networks: the tables of docs/theory/comparison.md.

The pretrained ResNet-20, the sentence encoder all-MiniLM-L6-v2, the keyword network of the gallery, and a network on spoken
digits whose training by Adam was recorded by `benchmarks.adam_zoo`. The batches of calibration examples are small, since one of
the allocators (HAWQ) takes second derivatives on the first two.

    DYNCOMPRESS_DATA=... OMP_NUM_THREADS=1 python -m benchmarks.comparisons [--only 'resnet20*'] [--table]
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

import dyncompress as dc
from benchmarks import cells, gallery_speech
from benchmarks.gallery_text import IDS, MASK, minilm, minilm_calibration, pairs, sentence_batches
from dyncompress.reports.comparison import NAMES, comparison_json
from dyncompress.reports.table import number, percent
from tests.data import cifar10, resnet20

ROOT = Path(__file__).resolve().parent.parent
RESULTS, PAGE = ROOT / "benchmarks" / "results" / "comparisons.json", ROOT / "docs" / "theory" / "comparison.md"
BEGIN, END = "<!-- tables -->\n", "<!-- /tables -->"
BATCH = 32  # calibration examples at once
TOKENS = 24  # to which the sentences are padded that the encoder is judged on; longer ones are left out
SENTENCES = 300  # that it is judged on


@dataclass(frozen=True)
class Subject:
    """A network with its data.

    Attributes:
        title: for the table.
        model: in eval mode.
        calibration: batches.
        held_out: inputs, or inputs and labels.
        trajectory: of its training, or None.
    """

    title: str
    model: nn.Module
    calibration: list[Any]
    held_out: Any
    trajectory: Path | None = None


def pictures() -> Subject:
    """ResNet-20 on CIFAR-10."""
    return Subject("ResNet-20 on CIFAR-10", resnet20(), list(cifar10("train", 256)[0].split(BATCH)), cifar10("test", 2000))


def sentences() -> Subject:
    """The sentence encoder on sentences of at most 24 tokens."""
    fitting = [part for _, part in sentence_batches(pairs()[0]) if part[IDS].shape[1] <= TOKENS]
    held = {
        name: np.concatenate([np.pad(part[name], ((0, 0), (0, TOKENS - part[name].shape[1]))) for part in fitting])
        for name in (IDS, MASK)
    }
    chosen = np.random.default_rng(0).permutation(len(held[IDS]))[:SENTENCES]
    calibration = [{n: v[:BATCH] for n, v in part.items()} for part in minilm_calibration() if part[IDS].shape[1] in (12, 16)]
    return Subject("all-MiniLM-L6-v2", minilm(), calibration, {name: value[chosen] for name, value in held.items()})


def keywords() -> Subject:
    """The gallery's keyword network with its front end, trained by Adam."""
    model = gallery_speech.trained(*gallery_speech.recordings("training"))
    waves, digits = (np.concatenate(parts) for parts in zip(*map(gallery_speech.recordings, ("held_out", "test")), strict=True))
    calibration = gallery_speech.recordings("calibration")[0]
    return Subject("keyword network of the gallery", model, np.split(calibration[:256], 8), (waves, digits))


def with_checkpoint(name: str) -> Subject:
    """A network that AdamW trained, with its last checkpoint."""
    from benchmarks.adam_zoo import ZOO, trained

    module, last = trained(name)
    calibration = list(ZOO[name].data("train", 256)[0].split(BATCH))
    return Subject(f"{name}, trained by AdamW", module, calibration, ZOO[name].data("test", 2000), last)


SUBJECTS: Mapping[str, Callable[[], Subject]] = {
    "resnet20": pictures,
    "keywords": keywords,
    "residual-14": lambda: with_checkpoint("residual-14"),
    "viewer-4-digits": lambda: with_checkpoint("viewer-4-digits"),
    "minilm": sentences,
}
CELLS = {f"{name} {action}": (name, action) for name in SUBJECTS for action in ("bits", "zeros")}


def cell_of(key: str) -> cells.Cell:
    """One comparison as plain values."""
    name, action = CELLS[key]
    subject, began = SUBJECTS[name](), time.perf_counter()
    found = dc.compare(
        subject.model,
        action=action,
        calibration=subject.calibration,
        held_out=subject.held_out,
        trajectory=subject.trajectory,
    )
    seconds, plain = time.perf_counter() - began, comparison_json(found)
    plain["budget"] = {name: round(value) if name == "bytes" else value for name, value in plain["budget"].items()}
    return {"title": subject.title, "action": action, "seconds": seconds, **plain}


def told(key: str, cell: cells.Cell) -> str:
    """The line that is printed for a finished comparison."""
    return f"{key}: {cell['answer']}, {cell['seconds']:.0f} s"


def table(found: Mapping[str, cells.Cell]) -> str:
    """All comparisons in Markdown: their verdicts and a row for each allocator, and the same written into the page."""
    text = "\n".join(line for cell in found.values() for line in section(cell))
    if PAGE.is_file():
        head, rest = PAGE.read_text().split(BEGIN)
        PAGE.write_text(head + BEGIN + text + END + rest.split(END)[1])
    return text


def section(cell: cells.Cell) -> Iterator[str]:
    """The lines of one comparison."""
    budget = cell["budget"]
    size = f"{budget['bytes']:,.0f} bytes" if "bytes" in budget else f"{percent(budget['sparsity'])} zeros"
    accuracy = "" if cell["accuracy"] is None else f", the original's accuracy {percent(cell['accuracy'])}"
    yield f"### {cell['title']}, {cell['action']}: {size}"
    yield ""
    yield f"{cell['examples']:,} held-out examples{accuracy}; {cell['seconds']:.0f} s."
    yield ""
    yield from (f"- {one['question']}: **{one['answer']}** ({one['why']})" for one in cell["verdicts"])
    yield ""
    scored = any(row.get("changed") is not None for row in cell["rows"])
    labelled = any(row.get("accuracy") is not None for row in cell["rows"])
    head = ["allocator", "reads", f"divergence, {cell['unit']}", "of uniform's [95 %]"]
    head += ["answers changed"] * scored + ["accuracy"] * labelled
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    names = [str(row["allocator"]) for row in cell["rows"]]
    for name, row in zip(names, cell["rows"], strict=True):
        if "reason" not in row:
            ratio, shares = row["ratio"], [("changed", scored), ("accuracy", labelled)]
            amounts = [number(row["divergence"]), f"{ratio['value']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]"]
            amounts += [percent(row[share]) for share, shown in shares if shown]
            yield f"| {' | '.join([NAMES.get(name, name), row['reads'], *amounts])} |"
    left = [NAMES.get(name, name) for name, row in zip(names, cell["rows"], strict=True) if "reason" in row]
    yield f"\nWithout a plan: {', '.join(left)}.\n" if left else ""


if __name__ == "__main__":
    cells.script(__doc__, list(CELLS), RESULTS, cell_of, told, table)
