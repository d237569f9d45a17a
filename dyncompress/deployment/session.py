"""Running a file as the target does: onnxruntime on the CPU with the target's options, in chunks."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as state  # pyright: ignore[reportAttributeAccessIssue]

from dyncompress.errors import InvalidRequest, Unsupported
from dyncompress.types import Target

CHUNK = 64  # examples a run: bounds the memory of activations
_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8", "asimddp", "i8mm", "sve")


def options(target: Target, threads: int = 1) -> onnxruntime.SessionOptions:
    """Session options of a target: its own keys, no spinning threads, errors only in the log."""
    made = onnxruntime.SessionOptions()
    made.intra_op_num_threads = threads
    made.inter_op_num_threads = 1
    made.log_severity_level = 3
    if threads > 1:
        made.add_session_config_entry("session.intra_op.allow_spinning", "0")
    for key, value in target.session.items():
        made.add_session_config_entry(key, value)
    return made


class Session:
    """A loaded file.

    Example:
        `Session(file.body, target).run({"x": images})[0]` gives the scores, `[n, classes]`.
    """

    def __init__(self, body: bytes, target: Target, threads: int = 1) -> None:
        """Load `body` (sealed or not).

        Raises:
            Unsupported: onnxruntime can't load it.
        """
        self._session = load(body, options(target, threads))
        self._inputs = {value.name: value for value in self._session.get_inputs()}

    @property
    def input_names(self) -> tuple[str, ...]:
        """In the file's order."""
        return tuple(self._inputs)

    @property
    def output_names(self) -> tuple[str, ...]:
        """In the file's order."""
        return tuple(value.name for value in self._session.get_outputs())

    def run(self, inputs: Mapping[str, np.ndarray]) -> tuple[np.ndarray, ...]:
        """All outputs over all examples, chunk by chunk.

        Args:
            inputs: by name, each `[n, ...]`; names that the file doesn't have are refused.

        Returns:
            The outputs, each `[n, ...]`.

        Raises:
            InvalidRequest: wrong names, lengths or forms.
            Unsupported: an output has no batch axis, so that chunks can't be joined.
        """
        self._check(inputs)
        found = [self._chunk(part, count) for part, count in pieces(self._session, inputs, CHUNK)]
        if len(found) == 1:
            return tuple(found[0])
        return tuple(np.concatenate(parts) for parts in zip(*found, strict=True))

    @property
    def input_shapes(self) -> dict[str, tuple[int | str, ...]]:
        """Name -> shape, a number where an axis is fixed and a word where it takes any length."""
        return {name: tuple("?" if size is None else size for size in value.shape) for name, value in self._inputs.items()}

    @property
    def batch_size(self) -> int:
        """The one batch size that the file takes; 0: any."""
        return fixed_batch(self._session)

    def over(self, batches: Sequence[Mapping[str, np.ndarray]]) -> tuple[np.ndarray, ...]:
        """All outputs over batches, whose axes may have several lengths, as `joined` puts them together."""
        return tuple(joined(parts) for parts in zip(*(self.run(batch) for batch in batches), strict=True))

    def _check(self, inputs: Mapping[str, np.ndarray]) -> None:
        if set(inputs) != set(self._inputs):
            raise InvalidRequest(f"the file has inputs {sorted(self._inputs)}, got {sorted(inputs)}; name them alike.")
        counts = {name: len(array) for name, array in inputs.items()}
        if len(set(counts.values())) != 1 or not next(iter(counts.values())):
            raise InvalidRequest(f"inputs have {counts} examples; give each the same number, at least one.")

    def _chunk(self, part: dict[str, np.ndarray], count: int) -> list[np.ndarray]:
        """Run one chunk; what is beyond its own examples is cut off."""
        size = len(next(iter(part.values())))
        try:
            outputs = ran(self._session, None, part)
        except state.InvalidArgument as error:
            forms = ", ".join(f"{value.name} {value.type} {value.shape}" for value in self._inputs.values())
            raise InvalidRequest(f"the file takes {forms}, and these inputs have another form: {_sentence(error)}") from error
        for value, out in zip(self._session.get_outputs(), outputs, strict=True):
            if out.ndim == 0 or len(out) != size:
                raise Unsupported(f"output '{value.name}' {list(out.shape)} has no batch axis in front ({size} examples).")
        return [out[:count] for out in outputs]


def joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    """One output of several batches, examples first.

    Where an axis has another length in another batch (time, height), each position along it counts as an example, so that
    channels stay channels: `[2, 5, 4]` and `[2, 7, 4]` become `[24, 4]`.

    Raises:
        Unsupported: the parts have other numbers of axes.

    Example:
        >>> joined([np.zeros((2, 5, 4)), np.zeros((2, 7, 4))]).shape
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
    """The one batch size that a session takes; 0: any."""
    return next((v.shape[0] for v in session.get_inputs() if v.shape and isinstance(v.shape[0], int)), 0)


def pieces(
    session: onnxruntime.InferenceSession, batch: Mapping[str, np.ndarray], size: int = 0
) -> Iterator[tuple[dict[str, np.ndarray], int]]:
    """A batch in pieces that a session takes, and how many examples of each piece are of the batch.

    A file of fixed batch gets pieces of that size, the last one filled up by repetition.

    Args:
        session: its inputs tell whether the batch is fixed.
        batch: inputs by name, each `[n, ...]`.
        size: of a piece, where the batch is free; 0: the whole.
    """
    fixed = fixed_batch(session)
    count = len(next(iter(batch.values())))
    step = fixed or size or max(count, 1)
    for start in range(0, count, step):
        part = {name: np.asarray(array)[start : start + step] for name, array in batch.items()}
        there = len(next(iter(part.values())))
        fill = fixed - there if fixed else 0
        yield {n: np.concatenate([x, np.repeat(x[-1:], fill, axis=0)]) if fill else x for n, x in part.items()}, there


def ran(session: onnxruntime.InferenceSession, names: Sequence[str] | None, part: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """The named outputs (None: all) on one batch.

    Raises:
        Unsupported: an operator of the graph fails in onnxruntime; its first line says which.
    """
    try:
        return [np.asarray(value) for value in session.run(names, dict(part))]
    except (state.Fail, state.RuntimeException, state.NotImplemented) as error:
        reason = " ".join(str(error).split())[:300].rpartition("while running ")[2].rstrip(".")
        raise Unsupported(
            f"onnxruntime {onnxruntime.__version__} can't run the exported graph: {reason}; write it without that operator."
        ) from error


def _sentence(error: Exception) -> str:
    """The first line of an error of onnxruntime, without its code."""
    return str(error).splitlines()[0].rpartition(" : ")[2]


def load(body: bytes, made: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    """A session on the CPU.

    Raises:
        Unsupported: onnxruntime refuses the file; its first line says why.
    """
    refused = (state.Fail, state.InvalidGraph, state.InvalidProtobuf, state.NotImplemented, state.InvalidArgument)
    try:
        return onnxruntime.InferenceSession(body, made, providers=["CPUExecutionProvider"])
    except (*refused, state.RuntimeException) as error:
        reason = " ".join(str(error).split())[:300].rpartition(" : ")[2].rstrip(".")
        raise Unsupported(
            f"onnxruntime {onnxruntime.__version__} can't load the file: {reason}; write the model without that operator, and in "
            "float32 (autocast inside forward is a common reason)."
        ) from error


def environment() -> dict[str, str]:
    """Runtime, its version, processor and the processor flags that choose kernels."""
    return {
        "runtime": "onnxruntime",
        "version": onnxruntime.__version__,
        "numpy": np.__version__,
        "system": platform.system(),
        "machine": platform.machine(),
        "processor_flags": " ".join(flag for flag in _FLAGS if flag in processor_flags()),
    }


def processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor_flags() -> frozenset[str]:
    """Flags of the first processor; empty where the system doesn't list them."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return frozenset()
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def processor() -> str:
    """The processor's name as the system tells it, else its architecture.

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
    """Why times on this machine would say nothing about a target, as a sentence; empty where they do.

    Example:
        >>> cannot_run_here(Target("board", "", "schema"))
        "target 'board' names no processor that this machine could stand for"
    """
    if not target.processor_flags:
        return f"target '{target.name}' names no processor that this machine could stand for"
    if not set(target.processor_flags) & processor_flags():
        return f"this processor shows none of {' or '.join(target.processor_flags)}, which target '{target.name}' asks for"
    return ""


def matches_target(target: Target) -> str:
    """Empty if this machine is what the target describes, else a sentence for the report."""
    if target.verified != "runtime":
        return f"target '{target.name}' was never run on its own hardware; only the form of its files is checked."
    if target.processor_flags and not set(target.processor_flags) & processor_flags():
        wanted = " or ".join(target.processor_flags)
        return f"this processor shows none of {wanted}, which target '{target.name}' was measured with; speed may differ."
    return ""
