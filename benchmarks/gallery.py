"""Models of many makers through `edge-int8` and other tools: bytes, the metric with true labels, time, and the certificate.

    python -m benchmarks.gallery                           # every missing cell; can be interrupted and continued
    python -m benchmarks.gallery --only 'resnet20 | *'     # cells are named `row | tool`
    python -m benchmarks.gallery --timings                 # time the stored files of each row, interleaved; needs an idle machine
    python -m benchmarks.gallery --table                   # print the table and compute nothing

Each tool gets the same float ONNX file and the same unlabelled calibration examples, and the file that it makes is judged on the
same labelled test examples. The interval of a difference to the float file is a paired t interval over the judge's units. The
cell of a tool that fails has the first line of its error. Tools and rows that need what isn't here (an interpreter, data, an
exporter) are skipped with the reason, and get no cell.

`gallery_row.py` says what a row is, and `gallery_peers.py` how other tools are called.
"""

from __future__ import annotations

import fnmatch
import hashlib
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from scipy import stats

import dyncompress as dc
from benchmarks import (
    cells,
    gallery_documents,
    gallery_images,
    gallery_libraries,
    gallery_music,
    gallery_sound,
    gallery_speech,
    gallery_text,
)
from benchmarks.frontier_data import NotHereError
from benchmarks.gallery_peer_process import WARM_RUNS
from benchmarks.gallery_peers import (
    HERE,
    PEERS,
    Call,
    Made,
    NotNeededError,
    OneRun,
    PeerError,
    PeerProcess,
    calls_of,
    fixed_size,
    opset_of,
    running,
    session_of,
)
from benchmarks.gallery_row import Arrays, Row, Run
from benchmarks.gallery_tables import FLOAT, OURS, RESULTS, table, told
from dyncompress import deployment
from dyncompress.deployment.session import odd_axes
from dyncompress.errors import DyncompressError

FILES = Path(tempfile.gettempdir()) / "dyncompress-gallery"
ROWS: tuple[Row, ...] = (
    *gallery_documents.ROWS,
    *gallery_sound.ROWS,
    *gallery_music.ROWS,
    *gallery_speech.ROWS,
    *gallery_text.ROWS,
    *gallery_images.ROWS,
    *gallery_libraries.ROWS,
)
TOOLS = (FLOAT, OURS, *PEERS)
COMPARED = 32  # calibration examples on which outputs are compared with the float file's
CHUNK = 32  # examples of one run of the judge: bounds the memory of activations
ROUND_SECONDS = 20.0  # how long one row is timed
ROUNDS = (20, 300)


def key_of(row: Row, tool: str) -> str:
    """The key of a cell."""
    return f"{row.name} | {tool}"


# ---------------------------------------------------------------- stored files
def digest_of(files: Mapping[str, bytes]) -> str:
    """The hex digest of a tool's files together."""
    return hashlib.sha256(b"".join(files.values())).hexdigest()


def store(folder: Path, row: Row, tool: str, files: Mapping[str, bytes]) -> None:
    """Write a tool's files, and remove those of another ending that it made before."""
    place = folder / row.name
    place.mkdir(parents=True, exist_ok=True)
    for ending in (".onnx", ".xml", ".bin"):
        if ending in files:
            (place / f"{tool}{ending}").write_bytes(files[ending])
        else:
            (place / f"{tool}{ending}").unlink(missing_ok=True)


def stored(folder: Path, row: Row, tool: str) -> dict[str, bytes]:
    """A tool's files by ending; none if it hasn't made them."""
    paths = {ending: folder / row.name / f"{tool}{ending}" for ending in (".onnx", ".xml", ".bin")}
    return {ending: path.read_bytes() for ending, path in paths.items() if path.is_file()}


def float_file(folder: Path, row: Row) -> bytes:
    """The float file: the stored one if there is one, since training may not give the same weights twice."""
    if not stored(folder, row, FLOAT):
        store(folder, row, FLOAT, {".onnx": row.float_file()})
    return stored(folder, row, FLOAT)[".onnx"]


# ---------------------------------------------------------------- tools
def ours(row: Row, content: bytes) -> Made:
    """`dyncompress.compress` of the file or of the row's module, and `dyncompress.certify` where the row has held-out examples.

    Certification has its own seconds. If it is refused, the cell has the reason and the file has no certificate.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(content)
        model = path if row.module is None else row.module()
        calibration = row.calibration()
        wall, cpu = time.perf_counter(), time.process_time()
        file = dc.compress(model, OURS, target=HERE, calibration=calibration)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        more: dict[str, Any] = {"left_alone": file.plan.share_left_alone.get("weights", 0.0)}
        more["reasons"] = sorted(set(file.plan.reasons.values()))
        if row.held_out is not None:
            inputs, labels = row.held_out()
            held_out = inputs if labels is None else {**inputs, "y": labels}
            began = time.perf_counter()
            try:
                file = dc.certify(file, reference=model, held_out=held_out, risk=row.risk)
            except DyncompressError as error:
                more["certificate_error"] = first_line(error)
            more["certify_seconds"] = time.perf_counter() - began
    if file.certificate is not None:
        line = file.certificate.lines[0]
        more |= {"certificate": file.certificate.statement, "quantity": line.quantity, "upper": math.ceil(1e4 * line.upper) / 1e4}
    return Made({".onnx": file.content}, wall, cpu, {**more, "version": dc.__version__})


def made_by(tool: str, row: Row, content: bytes) -> Made:
    """What a tool makes of the float file of a row.

    Args:
        tool: one of `TOOLS`.
        row: with the calibration examples.
        content: the float file.
    """
    if tool == FLOAT:
        opset = opset_of(onnx.load_from_string(content))
        return Made({".onnx": content}, 0.0, 0.0, {"made_by": row.made_by, "metric": row.metric, "opset": opset})
    return ours(row, content) if tool == OURS else PEERS[tool](content, calls_of(content, row.calibration()))


def first_line(error: BaseException) -> str:
    """The type and the first line of an error, without the paths of temporary files."""
    text = (str(error).strip().splitlines() or [""])[0]
    for place in (str(Path.cwd()), sys.prefix, tempfile.gettempdir()):
        text = text.replace(place, "...")
    return (text if isinstance(error, PeerError) else f"{type(error).__name__}: {text}")[:300]


# ---------------------------------------------------------------- measurements
def judged_run(content: bytes, once: OneRun) -> Run:
    """The function that a judge calls: examples are split into chunks, and a batch of fixed size is filled up.

    Files whose examples aren't on the first axis everywhere, such as those with a state, get what the judge gives.

    Args:
        content: the float file, whose inputs every tool keeps.
        once: runs the tool's file once.
    """
    session = session_of(content)
    if odd_axes(session):
        return lambda inputs: once(dict(inputs))
    size = fixed_size(session) or CHUNK

    def run(inputs: Arrays) -> list[np.ndarray]:
        count = len(next(iter(inputs.values())))
        fill = -count % size if fixed_size(session) else 0
        full = {name: np.concatenate([value, np.repeat(value[-1:], fill, 0)]) for name, value in inputs.items()}
        parts = [once({name: value[at : at + size] for name, value in full.items()}) for at in range(0, count, size)]
        return [np.concatenate(values)[:count] for values in zip(*parts, strict=True)]

    return run


def interval(values: np.ndarray) -> tuple[float, float]:
    """The two-sided 95 % t interval of a mean over independent units `[n]`."""
    if len(values) < 2:
        return float("nan"), float("nan")
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean() - half), float(values.mean() + half)


def relative_difference(before: Sequence[Sequence[np.ndarray]], after: Sequence[Sequence[np.ndarray]]) -> float:
    """The root mean square of an output's difference over the one of the output itself; the largest over the outputs.

    Args:
        before, after: the outputs of each call, of the float file and of another.

    Example:
        >>> relative_difference([[np.array([3.0, 4.0])]], [[np.array([3.0, 4.5])]])
        0.1
    """
    ratios = []
    for first, second in zip(zip(*before, strict=True), zip(*after, strict=True), strict=True):
        wanted, found = (np.concatenate([np.asarray(part, np.float64).ravel() for part in parts]) for parts in (first, second))
        size, gap = float(np.sqrt(np.square(wanted).mean())), float(np.sqrt(np.square(found - wanted).mean()))
        ratios.append(gap / size if size else (0.0 if gap == 0 else float("inf")))
    return max(ratios)


def measured(row: Row, content: bytes, files: Mapping[str, bytes]) -> dict[str, Any]:
    """The metric of a tool's files with its interval, its difference to the float file, and the difference of outputs.

    Args:
        row: with the judge.
        content: the float file.
        files: what the tool made.
    """
    calls = calls_of(content, row.calibration())[:COMPARED]
    with running({".onnx": content}) as before, running(files) as after:
        scores = float_scores(row, content, before)
        found = np.asarray(row.judge(judged_run(content, after)), np.float64)
        differs = relative_difference([before(call) for call in calls], [after(call) for call in calls])
    return {
        "bytes": sum(len(part) for part in files.values()),
        "bytes_ratio": sum(len(part) for part in files.values()) / len(content),
        "units": len(found),
        "mean": found.mean(),
        "interval": interval(found),
        "difference": (found - scores).mean(),
        "difference_interval": interval(found - scores),
        "relative_difference": differs,
    }


_SCORES: dict[tuple[str, str], np.ndarray] = {}


def float_scores(row: Row, content: bytes, once: OneRun) -> np.ndarray:
    """The scores of the float file, which a process computes once for each row."""
    key = row.name, digest_of({".onnx": content})
    if key not in _SCORES:
        _SCORES[key] = np.asarray(row.judge(judged_run(content, once)), np.float64)
    return _SCORES[key]


def cell_of(row: Row, tool: str, folder: Path = FILES) -> cells.Cell:
    """Run a tool on a row, store its files, and measure them.

    Raises:
        NotHereError: the row or the tool can't be had on this machine.
    """
    content = row.float_file() if tool == FLOAT else float_file(folder, row)
    begun = {"float_sha256": digest_of({".onnx": content}), "load": os.getloadavg()}
    try:
        made = made_by(tool, row, content)
        cost = {"seconds": made.seconds, "cpu_seconds": made.cpu_seconds}
        found = measured(row, content, made.files)
    except NotHereError:
        raise
    except NotNeededError as reason:
        store(folder, row, tool, {})
        return {"verdict": "not needed", "error": str(reason), **begun}
    except Exception as error:
        store(folder, row, tool, {})
        return {"verdict": "failed", "error": first_line(error), **begun}
    store(folder, row, tool, made.files)
    cost = {} if tool == FLOAT else cost
    return {"verdict": "ok", **found, **cost, **made.more, "sha256": digest_of(made.files), **begun}


# ---------------------------------------------------------------- times
def timers(files: Mapping[str, bytes], stack: ExitStack) -> Callable[[Call], float]:
    """A function that returns the seconds of a run of a tool's files; OpenVINO measures them in its own process.

    Untimed runs come first, since a process is slower after it has waited for others: OpenVINO took 1.3 ms instead of 0.75 for a
    ResNet-20.
    """
    if ".onnx" not in files:
        process = stack.enter_context(PeerProcess())
        process.ask("load", name="file", files=dict(files))
        return lambda call: process.ask("seconds_of_run", name="file", call=call)
    once = stack.enter_context(running(files))

    def seconds(call: Call) -> float:
        for _ in range(WARM_RUNS):
            once(call)
        began = time.perf_counter()
        once(call)
        return time.perf_counter() - began

    return seconds


def timed(row: Row, folder: Path, path: Path) -> Iterator[tuple[str, cells.Cell]]:
    """Time the stored files of a row on one example and one thread, in interleaved rounds.

    Every round times each file once and starts with another file than the round before. Files that aren't those of their cells,
    or whose cells were made from another float file, are left out.

    Yields:
        a tool and its cell with `milliseconds`, the median over the rounds; `times_ratio`, the median of the ratio to the float
        file within a round; `rounds`; and the environment and load of the timing.
    """
    found = cells.read(path)
    kept = {tool: found.get(key_of(row, tool), {}) for tool in TOOLS}
    files = {tool: stored(folder, row, tool) for tool in TOOLS}
    same = kept[FLOAT].get("sha256")
    right = [t for t in TOOLS if files[t] and digest_of(files[t]) == kept[t].get("sha256") and kept[t]["float_sha256"] == same]
    if FLOAT not in right:
        return
    load, call = os.getloadavg(), row.example()
    with ExitStack() as stack:
        clocks = {tool: timers(files[tool], stack) for tool in right}
        once = sum(clock(call) for clock in clocks.values()) * (1 + WARM_RUNS)
        rounds = int(np.clip(ROUND_SECONDS / once, *ROUNDS))
        seconds = np.zeros((rounds, len(right)))
        for turn in range(rounds):
            for offset in range(len(right)):
                index = (turn + offset) % len(right)
                seconds[turn, index] = clocks[right[index]](call)
    ratios = np.median(seconds / seconds[:, [right.index(FLOAT)]], axis=0)
    more = {"rounds": rounds, "timing_load": load, "timing_environment": deployment.environment()}
    for index, tool in enumerate(right):
        times = {"milliseconds": 1e3 * float(np.median(seconds[:, index])), "times_ratio": float(ratios[index])}
        yield tool, {**kept[tool], **times, **more}


# ---------------------------------------------------------------- command line
def missing(row: Row, key: str, path: Path = RESULTS) -> bool:
    """Whether a cell hasn't been made, or was made from another float file than the one whose cell is there."""
    found = cells.read(path)
    return key not in found or found[key]["float_sha256"] != found.get(key_of(row, FLOAT), found[key])["float_sha256"]


def main() -> int:
    """Compute the missing cells that the command line selects, or the times, and print the table."""
    parser = cells.arguments(__doc__)
    parser.add_argument("--files", type=Path, default=FILES, metavar="FOLDER", help="where the files of tools are kept")
    parser.add_argument("--timings", action="store_true", help="time the stored files of rows with a cell that is selected")
    args = parser.parse_args()
    keys = {key_of(row, tool): (row, tool) for row in ROWS for tool in TOOLS}
    chosen = [key for key in keys if fnmatch.fnmatch(key, args.only)]
    if args.timings and not args.table:
        for row in [row for row in ROWS if any(keys[key][0] is row for key in chosen)]:
            for tool, cell in timed(row, args.files, RESULTS):
                cells.put(RESULTS, key_of(row, tool), cell, list(keys))
                print(f"{key_of(row, tool)}: {cell['milliseconds']:.3g} ms, {cell['times_ratio']:.2f}x", flush=True)
    elif not args.table:
        for key in [key for key in chosen if args.again or missing(keys[key][0], key)]:
            try:
                cells.put(RESULTS, key, cell_of(*keys[key], args.files), list(keys))
            except (NotHereError, pytest.skip.Exception) as reason:
                print(f"{key}: skipped: {reason}", flush=True)
            else:
                print(told(key, cells.read(RESULTS)[key]), flush=True)
    print(table(cells.read(RESULTS)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
