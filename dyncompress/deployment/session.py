"""Run a file as the target does: onnxruntime on the CPU with the target's session options, in chunks of examples."""

from __future__ import annotations

import contextlib
import math
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as state  # pyright: ignore[reportAttributeAccessIssue]

from dyncompress.errors import InvalidRequest, Unsupported
from dyncompress.types import Target
from dyncompress.types.batch_axes import batch_axes

CHUNK = 64  # examples of one run: bounds the memory of activations
_INPUT_NUMBERS = 1 << 20  # numbers in the inputs of one run, likewise; activations of few large images stay in the cache
PLAIN = Target(name="plain", summary="", verified="schema")  # no session options of its own
_UNFUSED = "session.disable_quant_qdq"  # computes QuantizeLinear and DequantizeLinear as they are defined
_EXACT = "session.x64quantprecision"  # computes MatMulInteger with unsigned weights, whose sums don't saturate
_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8", "asimddp", "i8mm", "sve")


def open_session(body: bytes, target: Target, threads: int = 1) -> onnxruntime.InferenceSession:
    """Load a file, to compute what the target computes.

    A processor without 8-bit dot products sums pairs of products in 16 bits, which saturate where weights have 8 bits. On such a
    machine, files for targets that don't saturate run without integer kernels: every value is rounded to its grid, and products
    are summed in float. Products in the dynamic form are computed with unsigned weights, by onnxruntime's option for exact sums;
    it refuses weights that two products read (1.32), which then saturate.

    Raises:
        Unsupported: onnxruntime refuses the file.
    """
    session_options = options(target, threads)
    if saturates() and not target.reduce_range and _UNFUSED not in target.session:
        session_options.add_session_config_entry(_UNFUSED, "1")
        if b"MatMulInteger" in body or b"DynamicQuantizeLSTM" in body:
            exact = options(target, threads)
            for key in (_UNFUSED, _EXACT):
                exact.add_session_config_entry(key, "1")
            with contextlib.suppress(Unsupported):
                return load(body, exact)
    return load(body, session_options)


def options(target: Target, threads: int = 1) -> onnxruntime.SessionOptions:
    """Session options for a target: its own configuration keys, no spinning threads, and only errors in the log."""
    session_options = onnxruntime.SessionOptions()
    session_options.intra_op_num_threads = threads
    session_options.inter_op_num_threads = 1
    session_options.log_severity_level = 3
    if threads > 1:
        session_options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    for key, value in target.session.items():
        session_options.add_session_config_entry(key, value)
    return session_options


class Session:
    """An ONNX file loaded by onnxruntime.

    Example:
        `Session(file.body, target).run({"x": images})[0]` returns the scores, `[n, classes]`.
    """

    def __init__(self, body: bytes, target: Target, threads: int = 1) -> None:
        """Load a file.

        Args:
            body: the bytes of the file, sealed or not.
            target: whose session options are used.
            threads: number of threads of a run.

        Raises:
            Unsupported: onnxruntime can't load the file.
        """
        self._session = open_session(body, target, threads)
        self._inputs = {value.name: value for value in self._session.get_inputs()}
        self._odd = odd_axes(self._session)
        self._alone = quantizes_at_run(body)

    @property
    def input_names(self) -> tuple[str, ...]:
        """The names of the inputs, in the file's order."""
        return tuple(self._inputs)

    @property
    def output_names(self) -> tuple[str, ...]:
        """The names of the outputs, in the file's order."""
        return tuple(value.name for value in self._session.get_outputs())

    def run(self, inputs: Mapping[str, np.ndarray], size: int = 0) -> tuple[np.ndarray, ...]:
        """Run the file on all examples, chunk by chunk.

        Args:
            inputs: by name, each `[n, ...]`, exactly those of the file.
            size: examples of a chunk; 0: as `at_once`, or one where activations are quantized on the range of each run's values.

        Returns:
            All outputs, each `[n, ...]`.

        Raises:
            InvalidRequest: names, numbers of examples, shapes or types don't fit the file.
            Unsupported: an output has no batch axis, so that chunks can't be concatenated.
        """
        self._check(inputs)
        size = size or (1 if self._alone else at_once(inputs))
        chunks = [self._run_chunk(part, count) for part, count in pieces(self._session, inputs, size)]
        if len(chunks) == 1:
            return tuple(chunks[0])
        return tuple(np.concatenate(parts) for parts in zip(*chunks, strict=True))

    @property
    def input_shapes(self) -> dict[str, tuple[int | str, ...]]:
        """Input name -> shape: a number for an axis of fixed length, a word for an axis of any length."""
        return {name: tuple("?" if size is None else size for size in value.shape) for name, value in self._inputs.items()}

    @property
    def positions(self) -> dict[str, tuple[bool, ...]]:
        """Output -> for each axis whether it numbers positions: those behind the examples that have a word for a length."""
        shapes = {value.name: value.shape for value in self._session.get_outputs()}
        return {
            name: tuple(axis > 0 and isinstance(size, str) for axis, size in enumerate(shape)) for name, shape in shapes.items()
        }

    @property
    def batch_size(self) -> int:
        """The batch size that the file takes; 0 if it takes any."""
        return fixed_batch(self._session)

    def over(self, batches: Sequence[Mapping[str, np.ndarray]]) -> tuple[np.ndarray, ...]:
        """Run the file on several batches, whose inner axes may differ in length; see `concatenate_batches` for its outputs."""
        return tuple(concatenate_batches(parts) for parts in zip(*(self.run(batch) for batch in batches), strict=True))

    def _check(self, inputs: Mapping[str, np.ndarray]) -> None:
        """Check the names of the inputs and their numbers of examples."""
        if set(inputs) != set(self._inputs):
            raise InvalidRequest(f"the file has inputs {sorted(self._inputs)}, got {sorted(inputs)}; use the file's names.")
        counts = {name: len(array) for name, array in inputs.items()}
        if len(set(counts.values())) != 1 or not next(iter(counts.values())):
            raise InvalidRequest(f"inputs have {counts} examples; give each the same number, at least one.")

    def _run_chunk(self, part: dict[str, np.ndarray], count: int) -> list[np.ndarray]:
        """The outputs of one chunk on its first `count` examples; the others fill up a fixed batch."""
        size = len(next(iter(part.values())))
        try:
            outputs = run_session(self._session, None, part, self._odd)
        except state.InvalidArgument as error:
            forms = ", ".join(f"{value.name} {value.type} {value.shape}" for value in self._inputs.values())
            raise InvalidRequest(f"the file takes {forms}, and these inputs have another form: {_sentence(error)}") from error
        for value, out in zip(self._session.get_outputs(), outputs, strict=True):
            if out.ndim == 0 or len(out) != size:
                raise Unsupported(
                    f"output '{value.name}' has shape {list(out.shape)} for {size} examples; it needs the batch axis in front."
                )
        return [out[:count] for out in outputs]


def quantizes_at_run(body: bytes) -> bool:
    """Whether a file quantizes activations on the range of each run's values, so that outputs depend on all examples of a run."""
    return b"DynamicQuantize" in body


def concatenate_batches(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Concatenate one output of several batches along the examples.

    An axis whose length differs between batches (time, height) is flattened into the examples, so that channels stay channels:
    `[2, 5, 4]` and `[2, 7, 4]` become `[24, 4]`.

    Args:
        parts: the output for each batch, examples on the first axis.

    Returns:
        `[examples, ...]`.

    Raises:
        Unsupported: the number of axes differs between batches.

    Example:
        >>> concatenate_batches([np.zeros((2, 5, 4)), np.zeros((2, 7, 4))]).shape
        (24, 4)
    """
    if len({part.shape[1:] for part in parts}) <= 1:
        return np.concatenate(parts)
    if len({part.ndim for part in parts}) > 1:
        raise Unsupported("an output of the model has more axes for one batch than for another; return as many for every batch.")
    uneven = [axis for axis in range(1, parts[0].ndim) if len({part.shape[axis] for part in parts}) > 1]
    flat = []
    for part in parts:
        moved = np.moveaxis(part, uneven, range(1, 1 + len(uneven)))
        flat.append(moved.reshape(-1, *moved.shape[1 + len(uneven) :]))
    return np.concatenate(flat)


def fixed_batch(session: onnxruntime.InferenceSession) -> int:
    """The batch size that a session takes; 0 if it takes any."""
    shapes = {value.name: value.shape for value in session.get_inputs()}
    lengths = [shapes[name][axis] for name, axis in batch_axes(shapes).items() if axis is not None]
    return next((length for length in lengths if isinstance(length, int)), 0)


def at_once(batch: Mapping[str, np.ndarray], largest: int = _INPUT_NUMBERS) -> int:
    """Examples of one run: at most `CHUNK`, and fewer whose inputs are large.

    Args:
        batch: inputs by name, each `[n, ...]`.
        largest: numbers in the inputs of one run.

    Example:
        >>> at_once({"x": np.zeros((128, 3, 32, 32))}), at_once({"x": np.zeros((8, 3, 512, 512))})
        (64, 1)
    """
    numbers = sum(math.prod(np.shape(array)[1:]) for array in batch.values())
    return min(CHUNK, max(1, largest // max(numbers, 1)))


def pieces(
    session: onnxruntime.InferenceSession, batch: Mapping[str, np.ndarray], size: int = 0
) -> Iterator[tuple[dict[str, np.ndarray], int]]:
    """Split a batch into pieces that a session takes.

    For a file of a fixed batch size every piece has that size; the last one is filled up with copies of its last example.

    Args:
        session: whose inputs say whether the batch size is fixed.
        batch: inputs by name, each `[n, ...]`.
        size: examples of a piece, if the batch size isn't fixed; 0: all of them.

    Yields:
        A piece, inputs by name, and the number of its examples that belong to the batch.
    """
    fixed = fixed_batch(session)
    count = len(next(iter(batch.values())))
    step = fixed or size or max(count, 1)
    for start in range(0, count, step):
        part = {name: np.asarray(array)[start : start + step] for name, array in batch.items()}
        examples = len(next(iter(part.values())))
        fill = fixed - examples if fixed else 0
        yield {n: np.concatenate([x, np.repeat(x[-1:], fill, axis=0)]) if fill else x for n, x in part.items()}, examples


def odd_axes(session: onnxruntime.InferenceSession) -> dict[str, int | None]:
    """Input or output -> the axis of its examples, for those where it isn't the first one; None for one without axes."""
    values = (*session.get_inputs(), *session.get_outputs())
    return {name: axis for name, axis in batch_axes({value.name: value.shape for value in values}).items() if axis != 0}


def run_session(
    session: onnxruntime.InferenceSession,
    names: Sequence[str] | None,
    part: Mapping[str, np.ndarray],
    odd: Mapping[str, int | None] | None = None,
) -> list[np.ndarray]:
    """The named outputs of a session on one batch, with the examples on the first axis of inputs and outputs.

    Args:
        session: of a file.
        names: of outputs; None: all.
        part: inputs by name, each `[n, ...]`.
        odd: the result of `odd_axes`, for sessions that run often; None to compute it.

    Raises:
        Unsupported: an operator of the graph fails in onnxruntime; the message has the first line of its reason.
    """
    odd = odd_axes(session) if odd is None else odd
    given = {name: _in_place(value, odd[name]) if name in odd else value for name, value in part.items()}
    wanted = names if names is not None or not odd else [value.name for value in session.get_outputs()]
    try:
        values = [np.asarray(value) for value in session.run(names, given)]
    except (state.Fail, state.RuntimeException, state.NotImplemented) as error:
        reason = " ".join(str(error).split())[:300].rpartition("while running ")[2].rstrip(".")
        raise Unsupported(
            f"onnxruntime {onnxruntime.__version__} can't run the exported graph: {reason}; write it without that operator."
        ) from error
    if not odd:
        return values
    return [np.moveaxis(v, odd.get(n) or 0, 0) if v.ndim else v for n, v in zip(wanted or (), values, strict=True)]


def _in_place(value: np.ndarray, axis: int | None) -> np.ndarray:
    """Examples on another axis than the first; for an input without axes the value of the first example."""
    return np.asarray(value[0]) if axis is None else np.ascontiguousarray(np.moveaxis(value, 0, axis))


def _sentence(error: Exception) -> str:
    """The first line of an onnxruntime error, without its error code."""
    return str(error).splitlines()[0].rpartition(" : ")[2]


def load(body: bytes, session_options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    """Load a file into a session on the CPU.

    Raises:
        Unsupported: onnxruntime refuses the file; the message has the first line of its reason.
    """
    refusals = (state.Fail, state.InvalidGraph, state.InvalidProtobuf, state.NotImplemented, state.InvalidArgument)
    try:
        return onnxruntime.InferenceSession(body, session_options, providers=["CPUExecutionProvider"])
    except (*refusals, state.RuntimeException) as error:
        reason = " ".join(str(error).split())[:300].rpartition(" : ")[2].rstrip(".")
        raise Unsupported(
            f"onnxruntime {onnxruntime.__version__} can't load the file: {reason}; write the model without that operator, and in "
            "float32 (autocast inside forward is a common reason)."
        ) from error


def environment() -> dict[str, str]:
    """The runtime, its version, the operating system, the processor, and the processor flags that select kernels."""
    return {
        "runtime": "onnxruntime",
        "version": onnxruntime.__version__,
        "numpy": np.__version__,
        "system": platform.system(),
        "machine": platform.machine(),
        "processor_flags": " ".join(flag for flag in _FLAGS if flag in processor_flags()),
    }


def processors() -> int:
    """Number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor_flags() -> frozenset[str]:
    """Flags of the first processor; empty if the system doesn't list them."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return frozenset()
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def saturates() -> bool:
    """Whether sums of products of 8-bit numbers saturate on this processor: x86 without 8-bit dot products."""
    return "avx2" in processor_flags() and not processor_flags() & {"avx512_vnni", "avx_vnni"}


def processor() -> str:
    """The processor's name if the system knows it, else its architecture.

    Example:
        >>> bool(processor())
        True
    """
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model")))
    return next(filter(None, named), platform.processor() or platform.machine() or "unknown processor")


def cannot_run_here(target: Target) -> str:
    """Why times measured on this machine wouldn't hold for a target, without a full stop; empty if they would.

    Example:
        >>> cannot_run_here(Target("board", "", "schema"))
        "target 'board' names no processor that this machine could stand for"
    """
    if target.runtime != "onnxruntime":
        return f"target '{target.name}' runs in {target.runtime}, and times are taken in onnxruntime"
    if not target.processor_flags:
        return f"target '{target.name}' names no processor that this machine could stand for"
    if not set(target.processor_flags) & processor_flags():
        return f"this processor shows none of {' or '.join(target.processor_flags)}, which target '{target.name}' asks for"
    return ""


def matches_target(target: Target) -> str:
    """A sentence for the report if this machine isn't the one that the target describes; empty if it is."""
    if target.verified != "runtime":
        return f"target '{target.name}' was never run on its own hardware; only the form of its files is checked."
    if target.processor_flags and not set(target.processor_flags) & processor_flags():
        wanted = " or ".join(target.processor_flags)
        differs = (
            "speed differs, and onnxruntime's sums may saturate here, unlike there: for this machine use 'onnxruntime-x86-avx2'"
            if saturates() and not target.reduce_range
            else "speed may differ"
        )
        return f"this processor shows none of {wanted}, which target '{target.name}' was measured with; {differs}."
    return ""
