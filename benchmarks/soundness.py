"""Whether a file computes what its network computes, or a note says that it does not: 62 networks, four recipes, new inputs.

A cell compresses a network, runs the file under onnxruntime on inputs that are not in the calibration data, and compares its
outputs with those of the network as a user calls it. Its verdict:

- `sound`: every output is within `BEYOND`.
- `told`: an output is not, and the file reports it: the parity of the output is beyond `COARSE`, and a note names it.
- `refused`: the library raised one of its errors.
- `silent`: an output is beyond `BEYOND`, and nothing reports it. This must not occur.
- `crash`: any other exception. This must not occur.

    python -m benchmarks.soundness                       # the cells that are missing; can be interrupted and continued
    python -m benchmarks.soundness --only 'digits* | packed' --again
    python -m benchmarks.soundness --table               # Markdown, from the JSON alone
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor

import dyncompress as dc
from benchmarks.cells import Cell, failed, script
from benchmarks.judging import TARGET
from benchmarks.soundness_models import MODELS, subject
from benchmarks.soundness_subject import Subject
from dyncompress.deployment.channels import channel_errors
from dyncompress.pipeline.onnx_export import COARSE

RECIPES = ("edge-int8", "edge-int4", "packed", "sparse")
RESULT = Path(__file__).parent / "results" / "soundness.json"
# The largest error of a sound output on new inputs, relative to the output's root mean square or to a channel's spread. It is
# twice `COARSE`, the error from which on the file's own parity adds a note. Both errors are root mean squares over at least 64
# examples, which differ by a tenth or two by chance. A factor of two does not occur by chance: the parity is then too optimistic,
# because it was measured on examples that weights were fitted on, and the user has to know. A wrong file has errors of 70 % and
# more: a hook is lost, or a channel is constant.
BEYOND = 2 * COARSE
KEYS = tuple(f"{model} | {recipe}" for model in MODELS for recipe in RECIPES)
VERDICTS = ("sound", "told", "refused", "silent", "crash")


@dataclass(frozen=True)
class Judged:
    """One output of the file on new inputs, and the parity that the file states for it.

    Attributes:
        name: name of the output.
        pooled: root mean square difference, relative to the output's root mean square.
        channel: the difference of the worst channel, relative to its spread; nan if channels cannot be judged.
        lost: number of channels without any signal left.
        agreement: share of examples with the same largest score, or the same integer; nan for other outputs.
        parity_pooled, parity_channel: the same errors in the file's parity.
        noted: whether a note of the file names the output.
    """

    name: str
    pooled: float
    channel: float
    lost: int
    agreement: float
    parity_pooled: float
    parity_channel: float
    noted: bool

    @property
    def beyond(self) -> bool:
        """Whether the output is wrong; an error of NaN counts as wrong."""
        return not self.pooled <= BEYOND or self.channel > BEYOND or self.lost > 0

    @property
    def told(self) -> bool:
        """Whether the file reports the error."""
        return self.noted and (self.parity_pooled > COARSE or self.parity_channel > COARSE)


def verdict(outputs: Sequence[Judged]) -> str:
    """The verdict on a file from its judged outputs: `sound`, `told` or `silent`."""
    wrong = [output for output in outputs if output.beyond]
    if not wrong:
        return "sound"
    return "told" if all(output.told for output in wrong) else "silent"


def pooled_error(found: np.ndarray, wanted: np.ndarray) -> float:
    """The root mean square difference relative to the root mean square; infinite if only one of both is finite."""
    found, wanted = found.astype(np.float64), wanted.astype(np.float64)
    same = (found == wanted) | (np.isnan(found) & np.isnan(wanted))
    if not np.isfinite(np.where(same, 0.0, found - np.where(same, 0.0, wanted))).all():
        return float("inf")
    gap = np.where(same, 0.0, found - np.where(same, 0.0, wanted))
    size = np.sqrt(np.square(np.where(np.isfinite(wanted), wanted, 0.0)).mean())
    return float(np.sqrt(np.square(gap).mean()) / max(size, 1e-12))


def judged(name: str, found: np.ndarray, wanted: np.ndarray, file: dc.OnnxFile) -> Judged:
    """Judge one output on new inputs, and look up the file's parity."""
    if found.shape != wanted.shape:
        raise ValueError(f"output '{name}' is {found.shape}, the network's is {wanted.shape}")
    said = next(output for output in file.parity.outputs if output.name == name)
    channel, lost, agreement = float("nan"), 0, float("nan")
    if wanted.dtype.kind == "f":
        along = channel_errors(found, wanted)
        channel = max((float(e.errors[e.worst]) for e in along if e.judged.any()), default=float("nan"))
        lost = sum(len(e.lost) for e in along)
        if wanted.ndim == 2 and wanted.shape[1] > 1:
            agreement = float((found.argmax(1) == wanted.argmax(1)).mean())
    else:
        agreement = float((found == wanted).mean())
    noted = any(f"output '{name}'" in note for note in file.notes)
    pooled = pooled_error(found, wanted)
    return Judged(name, pooled, channel, lost, agreement, said.relative_error, said.channel_error, noted)


def file_outputs(body: bytes, inputs: Mapping[str, Tensor]) -> tuple[list[str], list[np.ndarray]]:
    """Names and values of a file's outputs under onnxruntime on one thread; in pieces if the file has a fixed batch size."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(body, options, providers=["CPUExecutionProvider"])
    takes = session.get_inputs()
    by_name = all(value.name in inputs for value in takes)
    given = [inputs[value.name] for value in takes] if by_name else list(inputs.values())
    fixed = takes[0].shape[0]
    size = fixed if isinstance(fixed, int) else len(given[0])
    pieces = []
    for start in range(0, len(given[0]), size):
        feed = {value.name: array[start : start + size].numpy() for value, array in zip(takes, given, strict=True)}
        pieces.append(session.run(None, feed))
    return [out.name for out in session.get_outputs()], [np.concatenate(parts) for parts in zip(*pieces, strict=True)]


def compressed(one: Subject, recipe: str) -> Cell:
    """Compress a network, and judge the file.

    Raises:
        DyncompressError: the library refuses.
    """
    calibration = one.law(one.calibration, torch.Generator().manual_seed(1))
    new = (one.fresh or one.law)(one.n, torch.Generator().manual_seed(2))
    wanted = [tensor.numpy() for tensor in one.called(new)]
    file = dc.compress(one.module, recipe, target=TARGET, calibration=calibration)
    names, found = file_outputs(file.body, new)
    if len(found) != len(wanted):
        raise ValueError(f"the file has {len(found)} outputs, the network {len(wanted)}")
    outputs = [judged(*parts, file) for parts in zip(names, found, wanted, strict=True)]
    return {
        "verdict": verdict(outputs),
        "outputs": [asdict(output) for output in outputs],
        "relative_error": file.parity.relative_error,
        "agreement": file.parity.agreement,
        "notes": list(file.notes),
        "bytes_percent": 100 * len(file.shipped) / file.float_bytes,
    }


def cell(key: str) -> Cell:
    """The cell of one network and recipe: the verdict, and the values behind it."""
    model, recipe = key.split(" | ")
    one, began = subject(model), time.perf_counter()
    try:
        found = compressed(one, recipe)
    except Exception as error:
        found = failed(error)
    return {**found, "seconds": time.perf_counter() - began}


def worst(found: Cell) -> str:
    """The largest error on new inputs as a short text, or the message of the exception."""
    if "outputs" not in found:
        return f"{found['error']}: {found['sentence']}"

    def percent(field: str) -> str:
        values = [float(output[field]) for output in found["outputs"] if output[field] is not None]
        return f"{100 * max(values):.2g} %" if values else "–"

    return f"{percent('pooled')}, {percent('channel')} (parity {percent('parity_pooled')}, {percent('parity_channel')})"


def line(key: str, found: Cell) -> str:
    """The line that is printed for a cell."""
    return f"{key:44s} {found['verdict']:8s} {found['seconds']:5.1f} s  {worst(found)}"


def table(cells: Mapping[str, Cell]) -> str:
    """Markdown tables: the verdicts by recipe, then all cells that are not sound."""
    counts = {
        recipe: Counter(found["verdict"] for key, found in cells.items() if key.endswith(f"| {recipe}")) for recipe in RECIPES
    }
    lines = [f"| recipe | {' | '.join(VERDICTS)} |", "|---" * (len(VERDICTS) + 1) + "|"]
    lines += [f"| {recipe} | {' | '.join(str(count[v]) for v in VERDICTS)} |" for recipe, count in counts.items()]
    lines += [
        "",
        "Errors on new inputs: RMS of the output, worst channel relative to its spread (brackets: the file's parity).",
        "",
    ]
    lines += ["| network | recipe | verdict | worst error, or the message |", "|---|---|---|---|"]
    for key, found in cells.items():
        if found["verdict"] != "sound":
            lines.append(f"| {key} | {found['verdict']} | {worst(found).replace('|', '/')} |")
    return "\n".join(lines)


if __name__ == "__main__":
    script(__doc__, KEYS, RESULT, cell, line, table)
