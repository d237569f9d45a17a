"""Whether `budget.distortion` is kept: twelve networks at three budgets with `packed`, on examples that the library never saw.

A cell sets a budget for the divergence from the original, in nats for class scores and relative to the output's variance for
other outputs. It measures the divergence of the file from the original network on fresh examples of the same distribution as the
calibration data. Its verdict:

- `kept`: the mean over the fresh examples is within the budget.
- `within noise`: it is above, by less than two of its standard errors.
- `exceeded`: it is above by more.
- `refused`: the library raised one of its errors, such as Infeasible.
- `crash`: any other exception. It must not occur.

    python -m benchmarks.distortion                      # the cells that are missing; can be interrupted and continued
    python -m benchmarks.distortion --only 'digits*' --again
    python -m benchmarks.distortion --table              # Markdown, from the JSON alone
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import dyncompress as dc
from benchmarks.cells import Cell, failed, script
from benchmarks.distortion_nets import NETS, Trained, trained_net
from benchmarks.judging import TARGET
from benchmarks.soundness import file_outputs
from dyncompress.measures.divergence import divergence_of_outputs

BUDGETS = (0.02, 0.08, 0.3)
RESULT = Path(__file__).parent / "results" / "distortion.json"
KEYS = tuple(f"{net} | {budget:g}" for net in NETS for budget in BUDGETS)

made_once = lru_cache(maxsize=1)(trained_net)  # the three budgets of a network are computed one after another


def verdict(asked: float, mean: float, error: float) -> str:
    """The verdict on a mean with its standard error; a mean of NaN counts as exceeded."""
    if mean <= asked:
        return "kept"
    return "within noise" if mean - 2 * error <= asked else "exceeded"


def originals(net: Trained) -> np.ndarray:
    """The original's outputs on the fresh examples."""
    with torch.no_grad():
        return torch.cat([net.module(part) for part in net.fresh.split(256)]).numpy()


def accuracy(scores: np.ndarray, labels: Tensor) -> float:
    """The accuracy in per cent."""
    return 100 * float((scores.argmax(1) == labels.numpy()).mean())


def compressed(net: Trained, asked: float) -> Cell:
    """Compress a network, and measure the divergence of the file on fresh examples.

    Raises:
        DyncompressError: the library refuses.
    """
    recipe = replace(dc.load_recipe("packed"), mirrored=net.mirrored, budget=dc.Budget(distortion=asked))
    file = dc.compress(net.module, recipe, target=TARGET, calibration=net.calibration)
    wanted, found = originals(net), file_outputs(file.body, {"x": net.fresh})[1][0]
    each = divergence_of_outputs((wanted,), (found,))
    mean, error = float(each.mean()), float(each.std(ddof=1) / math.sqrt(len(each)))
    scores = {} if net.labels is None else {"before": accuracy(wanted, net.labels), "after": accuracy(found, net.labels)}
    return {
        "verdict": verdict(asked, mean, error),
        "measured": file.plan.cost["divergence"],
        "measured_stderr": file.plan.cost["divergence_stderr"],
        "fresh": mean,
        "fresh_stderr": error,
        "examples": len(each),
        "bytes": len(file.shipped),
        "bytes_percent": 100 * len(file.shipped) / file.float_bytes,
        "accuracy": scores,
        "notes": list(file.notes),
    }


def cell(key: str) -> Cell:
    """The cell of one network at one budget. Its seconds include compression and evaluation, but not training."""
    name, budget = key.split(" | ")
    net, began = made_once(name), time.perf_counter()
    try:
        found = compressed(net, float(budget))
    except Exception as error:
        found = failed(error)
    return {"asked": float(budget), **found, "seconds": time.perf_counter() - began}


def line(key: str, found: Cell) -> str:
    """The line that is printed for a cell."""
    if "fresh" not in found:
        return f"{key:30s} {found['verdict']:12s} {found['seconds']:5.1f} s  {found['error']}: {found['sentence']}"
    return (
        f"{key:30s} {found['verdict']:12s} {found['seconds']:5.1f} s  "
        f"measured {found['measured']} +- {found['measured_stderr']}, "
        f"fresh {found['fresh']} +- {found['fresh_stderr']}, {found['bytes']:,} bytes, accuracy {found['accuracy']}"
    )


def table(cells: Mapping[str, Cell]) -> str:
    """A Markdown table with one row for each cell."""
    lines = ["| network | asked | measured | on fresh examples | verdict | bytes | of float32 | accuracy | seconds |"]
    lines.append("|---" * 9 + "|")
    for key, found in cells.items():
        if "fresh" not in found:
            sentence = f"{found['error']}: {found['sentence']}".replace("|", "/")
            lines.append(f"| {key} | – | – | {found['verdict']}: {sentence} | – | – | – | {found['seconds']:.0f} |")
            continue
        scores = found["accuracy"]
        right = f"{scores['before']:.1f} → {scores['after']:.1f} %" if scores else "–"
        measured, fresh = (f"{found[name]:.2g} ± {found[name + '_stderr']:.1g}" for name in ("measured", "fresh"))
        size = f"{found['bytes']:,} | {found['bytes_percent']:.1f} %"
        lines.append(f"| {key} | {measured} | {fresh} | {found['verdict']} | {size} | {right} | {found['seconds']:.0f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    script(__doc__, KEYS, RESULT, cell, line, table)
