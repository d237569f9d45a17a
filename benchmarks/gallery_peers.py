"""Other tools on the files of the gallery: onnxruntime's quantizers in this process, NNCF and OpenVINO in another interpreter.

Each tool is called as its documentation shows, on the same calibration examples, one at a time, and without labels. NNCF and
OpenVINO run in a separate environment: set `GALLERY_PEERS_PYTHON` to an interpreter that has nncf, openvino, onnx and onnxruntime
(`python -m venv e && e/bin/pip install nncf openvino onnx onnxruntime`).
"""

from __future__ import annotations

import os
import pickle
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

import dyncompress as dc
from benchmarks.frontier_data import NotHereError
from benchmarks.gallery_row import Arrays
from benchmarks.judging import TARGET
from dyncompress.deployment.session import _in_place, load, odd_axes, options, saturates

# A processor without 8-bit dot products has a target of its own, and every tool its option for it.
HERE = "onnxruntime-x86-avx2" if saturates() else TARGET
PEERS_PYTHON = "GALLERY_PEERS_PYTHON"
LIMIT = 3600.0  # seconds after which a request to another interpreter has failed
PER_CHANNEL = 13  # the first opset whose QuantizeLinear has an axis
RAISED = 17
Call = dict[str, np.ndarray]  # the inputs of one run, as the file takes them
OneRun = Callable[[Call], list[np.ndarray]]


class NotNeededError(Exception):
    """A tool has nothing to do on a file; the message gives the reason."""


class PeerError(Exception):
    """Another interpreter reports that a tool failed; the message is the first line of the tool's own."""


@dataclass(frozen=True)
class Made:
    """What a tool made of a float file.

    Attributes:
        files: ending -> bytes: `.onnx`, or `.xml` and `.bin`.
        seconds: wall time of the tool's call.
        cpu_seconds: processor time of the same call.
        more: further values of the cell.
    """

    files: Mapping[str, bytes]
    seconds: float
    cpu_seconds: float
    more: Mapping[str, Any] = field(default_factory=dict)


# ---------------------------------------------------------------- inputs
def session_of(content: bytes) -> onnxruntime.InferenceSession:
    """A file in onnxruntime on one thread, with the session options of the target, for the files of all tools.

    Raises:
        Unsupported: onnxruntime can't load the file.
    """
    return load(content, options(dc.load_target(HERE)))


def fixed_size(session: onnxruntime.InferenceSession) -> int:
    """The number of examples that a file takes, the first axis of its first input; 0 if it takes any number."""
    shape = session.get_inputs()[0].shape
    return shape[0] if shape and isinstance(shape[0], int) else 0


def calls_of(content: bytes, examples: Arrays | Sequence[Arrays]) -> list[Call]:
    """Calibration examples as a file takes them, one example a call.

    Args:
        content: the float file, which says on which axis the examples are, and how many a call takes if the number is fixed.
        examples: inputs by name, each `[n, ...]`, or several such batches.

    Returns:
        The inputs of each call. Examples that don't fill the last call of a fixed size are left out.
    """
    session = session_of(content)
    odd, size = odd_axes(session), fixed_size(session) or 1
    calls = []
    for batch in [examples] if isinstance(examples, Mapping) else examples:
        count = len(next(iter(batch.values())))
        for start in range(0, count - size + 1, size):
            part = {name: np.asarray(value)[start : start + size] for name, value in batch.items()}
            calls.append({name: _in_place(value, odd[name]) if name in odd else value for name, value in part.items()})
    return calls


# ---------------------------------------------------------------- onnxruntime's quantizers
def opset_of(model: onnx.ModelProto) -> int:
    """The version of ONNX's own operators in a file."""
    return next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))


def onnxruntime_static(content: bytes, calls: Sequence[Call], *, per_channel: bool = True) -> Made:
    """`quantize_static` after `quant_pre_process`: QDQ, uint8 activations from their extremes, int8 weights.

    Weights have 7 bits where sums of products of 8 bits would saturate.

    Args:
        content: the float file.
        calls: the calibration examples.
        per_channel: whether each channel of a weight has a scale, or each tensor, the tool's default.
    """
    from onnxruntime import quantization

    class Calls(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(calls)

        def get_next(self) -> Call | None:
            return next(self.left, None)

    def quantize(first: str, last: str) -> None:
        quantization.quantize_static(
            first,
            last,
            Calls(),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=per_channel,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            calibrate_method=quantization.CalibrationMethod.MinMax,
            reduce_range=saturates(),
        )

    return _preprocessed(content, quantize)


def onnxruntime_static_raised(content: bytes, calls: Sequence[Call]) -> Made:
    """The same after `onnx.version_converter` has raised the opset, for files that are too old for a scale for each channel.

    Raises:
        NotNeededError: the file isn't too old.
    """
    from onnx import version_converter

    model = onnx.load_from_string(content)
    opset = opset_of(model)
    if opset >= PER_CHANNEL:
        raise NotNeededError(f"the file has opset {opset}")
    wall, cpu = time.perf_counter(), time.process_time()
    raised = version_converter.convert_version(model, RAISED).SerializeToString()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    made = onnxruntime_static(raised, calls)
    return Made(made.files, made.seconds + wall, made.cpu_seconds + cpu, {"opset": [opset, RAISED]})


def onnxruntime_dynamic(content: bytes, calls: Sequence[Call]) -> Made:
    """`quantize_dynamic` after `quant_pre_process`, which reads no examples.

    Weights are uint8: onnxruntime has no kernel for a ConvInteger with weights of int8, the default.
    """
    from onnxruntime import quantization

    def quantize(first: str, last: str) -> None:
        quantization.quantize_dynamic(first, last, weight_type=quantization.QuantType.QUInt8)

    return _preprocessed(content, quantize)


def _preprocessed(content: bytes, quantize: Callable[[str, str], None]) -> Made:
    """Pre-process a file as onnxruntime's documentation asks, and quantize it: `quantize(path, path of the result)`."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder:
        first, prepared, last = (Path(folder) / f"{name}.onnx" for name in ("float", "prepared", "int8"))
        first.write_bytes(content)
        wall, cpu = time.perf_counter(), time.process_time()
        quant_pre_process(str(first), str(prepared), skip_symbolic_shape=True)
        quantize(str(prepared), str(last))
        seconds = time.perf_counter() - wall, time.process_time() - cpu
        return Made({".onnx": last.read_bytes()}, *seconds, {"version": onnxruntime.__version__})


# ---------------------------------------------------------------- tools of another interpreter
class PeerProcess:
    """A process that runs `gallery_peer_process.py` in the interpreter that an environment variable names; a context manager.

    Raises:
        NotHereError: the variable isn't set.
    """

    def __init__(self, variable: str = PEERS_PYTHON, needs: str = "nncf, openvino, onnx and onnxruntime") -> None:
        """Start the process.

        Args:
            variable: the environment variable.
            needs: what the interpreter needs, for the message.
        """
        python = os.environ.get(variable, "")
        if not python:
            raise NotHereError(f"set {variable} to the interpreter of an environment with {needs}")
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        script = str(Path(__file__).with_name("gallery_peer_process.py"))
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115, it is closed with the process
        self._process = subprocess.Popen(
            [python, "-P", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, env=environment
        )

    def __enter__(self) -> PeerProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def ask(self, function: str, **arguments: Any) -> Any:
        """The value of a function of `gallery_peer_process.py`.

        Raises:
            PeerError: it failed, the process ended, or it gave no answer within `LIMIT` seconds.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        clock = threading.Timer(LIMIT, self._process.kill)
        clock.start()
        try:
            pickle.dump((function, arguments), self._process.stdin, protocol=5)
            self._process.stdin.flush()
            verdict, value = pickle.load(self._process.stdout)
        except (EOFError, BrokenPipeError, pickle.UnpicklingError):
            raise PeerError(f"the process ended with exit code {self._process.wait()}: {self._last_line()}") from None
        finally:
            clock.cancel()
        if verdict != "ok":
            raise PeerError(value)
        return value

    def _last_line(self) -> str:
        self._errors.seek(0)
        return (self._errors.read().decode(errors="replace").strip().splitlines() or ["without a message"])[-1]


def _in_peer_process(function: str, content: bytes, calls: Sequence[Call]) -> Made:
    with PeerProcess() as process:
        made = process.ask(function, content=content, calls=list(calls), half_range=saturates())
    return Made(made["files"], made["seconds"], made["cpu_seconds"], made["more"])


def nncf(content: bytes, calls: Sequence[Call]) -> Made:
    """`nncf.quantize` of the ONNX file; the result runs in onnxruntime."""
    return _in_peer_process("quantize_onnx", content, calls)


def openvino(content: bytes, calls: Sequence[Call]) -> Made:
    """`nncf.quantize` of the file as OpenVINO reads it; the result runs in OpenVINO.

    What isn't quantized is computed in float32, as in the files of the other tools.
    """
    return _in_peer_process("quantize_openvino", content, calls)


PEERS: Mapping[str, Callable[[bytes, Sequence[Call]], Made]] = {
    "onnxruntime static": onnxruntime_static,
    "onnxruntime static, per tensor": partial(onnxruntime_static, per_channel=False),
    "onnxruntime static, opset raised": onnxruntime_static_raised,
    "onnxruntime dynamic": onnxruntime_dynamic,
    "NNCF": nncf,
    "OpenVINO": openvino,
}


# ---------------------------------------------------------------- runs
@contextmanager
def running(files: Mapping[str, bytes]) -> Iterator[OneRun]:
    """A function that runs what a tool made once: ONNX files in this process, others in a process of OpenVINO.

    Raises:
        Unsupported: onnxruntime can't load the file.
        PeerError: OpenVINO can't.
        NotHereError: there is no interpreter with OpenVINO.
    """
    if ".onnx" in files:
        session = session_of(files[".onnx"])
        yield lambda call: [np.asarray(value) for value in session.run(None, dict(call))]
        return
    with PeerProcess() as process:
        process.ask("load", name="file", files=dict(files))
        yield lambda call: process.ask("run", name="file", call=call)
