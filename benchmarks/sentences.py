"""all-MiniLM-L6-v2 at 8 and 4 bits: bytes, Spearman's correlation on all pairs of the STS benchmark's dev split, seconds.

Sentences of any length: calibration batches are padded to six lengths, and the test batches to theirs. The correlation is that of
the file under onnxruntime, beside the float network's on the same pairs. Seconds are those of `compress` after the libraries were
loaded, and memory is the peak of the process above what it held before.
Run: `python -m benchmarks.sentences [--only 'edge-int4*'] [--table]`
"""

from __future__ import annotations

import csv
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from scipy import stats
from torch import nn
from transformers import BertConfig, BertModel

import dyncompress as dc
from benchmarks import cells
from benchmarks.gallery_row import Arrays, Run
from benchmarks.gallery_tables import SENTENCES, sentences_table
from benchmarks.gallery_text import minilm, minilm_calibration, sentence_batches
from benchmarks.judging import TARGET
from dyncompress.deployment import Session, environment, time_pair
from dyncompress.deployment.session import cannot_run_here, processor
from dyncompress.models.torch.layers import digest_of
from tests.data import data_file

AVX2, DYNAMIC = "onnxruntime-x86-avx2", "onnxruntime-transformer-dynamic"
# Recipe, budget of bytes (0: none) and target.
CELLS: Mapping[str, tuple[str, float, str]] = {
    "float": ("", 0, TARGET),
    "edge-int8": ("edge-int8", 0, TARGET),
    f"edge-int8, {AVX2}": ("edge-int8", 0, AVX2),
    f"edge-int8, {DYNAMIC}": ("edge-int8", 0, DYNAMIC),
    "edge-int4": ("edge-int4", 0, TARGET),
    "edge-int4, 13 MB": ("edge-int4", 13e6, TARGET),
}


def correlation(run: Run) -> float:
    """Spearman's correlation, in points, of the cosines of all dev pairs with their labels."""
    with data_file("text/stsb_en_dev.csv").open(encoding="utf-8", newline="") as file:
        firsts, seconds, labels = zip(*csv.reader(file), strict=True)
    sentences = (*firsts, *seconds)
    found: dict[int, np.ndarray] = {}
    for places, inputs in sentence_batches(sentences):
        for start in range(0, len(places), 32):
            part = {name: value[start : start + 32] for name, value in inputs.items()}
            found |= dict(zip(places[start : start + 32].tolist(), run(part)[0], strict=True))
    table = np.stack([found[i] for i in range(len(sentences))])
    cosines = (table[: len(labels)] * table[len(labels) :]).sum(1)  # of embeddings of length 1
    return 100 * float(stats.spearmanr(cosines, np.array(labels, np.float64)).statistic)


def run_of(net: nn.Module) -> Run:
    """The network as a function of arrays by name."""

    def run(inputs: Arrays) -> list[np.ndarray]:
        with torch.no_grad():
            return [net(**{name: torch.from_numpy(value) for name, value in inputs.items()}).numpy()]

    return run


def memory(field: str) -> int:
    """Bytes of the process by a field of /proc/self/status."""
    return int(Path("/proc/self/status").read_text().partition(f"{field}:")[2].split()[0]) * 1024


def cell_of(key: str) -> cells.Cell:
    """The measurements of a file, or of the float network."""
    recipe, budget, target_name = CELLS[key]
    net, calibration = minilm(), minilm_calibration()
    if not recipe:
        return {"spearman": correlation(run_of(net)), "processor": processor()}
    asked = dc.load_recipe(recipe)
    asked = replace(asked, budget=dc.Budget(bytes=budget)) if budget else asked
    target = dc.load_target(target_name)
    digest_of({name: value for name, value in net.state_dict().items()})  # files of weights are read when they are needed
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again
    before, began = memory("VmRSS"), time.perf_counter()
    file = dc.compress(net, asked, target=target, calibration=calibration, keep_float=True)
    seconds, peak = time.perf_counter() - began, memory("VmHWM") - before
    session = Session(file.body, target, 2)
    more = {"float_bytes": file.float_bytes, "memory": peak, "notes": list(file.notes), "environment": environment()}
    if not cannot_run_here(target):
        sentence = {name: np.asarray(value)[:1] for name, value in calibration[2].items()}
        more["faster"] = float(np.median([time_pair(file.float_body, file.body, sentence, target).ratio for _ in range(5)]))
    return {
        "bytes": len(file.content),
        "spearman": correlation(lambda inputs: list(session.run(inputs))),
        "seconds": seconds,
        "processor": processor(),
        **more,
    }


def load_libraries() -> None:
    """Compress a small transformer, so that all libraries are loaded before anything is measured."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    small = BertModel(BertConfig(vocab_size=99, **sizes)).eval()
    masks = [torch.ones(8, length, dtype=torch.long) for length in (7, 9)]
    batches = [{"input_ids": torch.randint(0, 99, mask.shape), "attention_mask": mask} for mask in masks]
    dc.compress(small, "edge-int8", target=TARGET, calibration=batches)


def told(key: str, cell: cells.Cell) -> str:
    """The line that is printed for a finished cell."""
    return f"{key}: {cell['spearman']:.2f} points" + (f", {cell['bytes']:,} bytes" if "bytes" in cell else "")


if __name__ == "__main__":
    load_libraries()
    cells.script(__doc__, list(CELLS), SENTENCES, cell_of, told, sentences_table)
