"""Run a file and what it was converted to on the same inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as state  # pyright: ignore[reportAttributeAccessIssue]

from dyncompress.deployment.session import PLAIN, fixed_batch, load, options
from dyncompress.errors import InvalidRequest, Unsupported
from dyncompress.types.batch_axes import batch_axes

EXAMPLES, LENGTH = 2, 16  # of made inputs: the batch size, and the length of other axes that take any length
LARGEST = 64  # examples of given inputs that are used
UNKNOWN = "the result wasn't compared with the file, since {}; give inputs to compare them on."
_REFUSALS = (state.Fail, state.RuntimeException, state.NotImplemented, state.InvalidArgument)
_TYPES = {"float": "float32", "double": "float64"}


def as_defined(content: bytes) -> onnxruntime.InferenceSession:
    """A session that computes every node by itself, as ONNX defines it: nothing is fused, and no sum of integers saturates.

    Raises:
        Unsupported: onnxruntime refuses the file.
    """
    session_options = options(PLAIN)
    session_options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return load(content, session_options)


def inputs_for(session: onnxruntime.InferenceSession, given: Mapping[str, np.ndarray] | None) -> dict[str, np.ndarray]:
    """The first examples of the given inputs, or made ones: normal floats, and integers and booleans that are 0 or 1.

    Args:
        session: of the file.
        given: name -> array `[n, ...]`, or None.

    Raises:
        InvalidRequest: the given names aren't those of the file.
        Unsupported: an input is no tensor of numbers, so that none can be made.
    """
    fixed, shapes = fixed_batch(session), {value.name: value.shape for value in session.get_inputs()}
    if given is not None:
        if set(given) != set(shapes):
            raise InvalidRequest(f"the file has inputs {sorted(shapes)}, got {sorted(given)}; use the file's names.")
        return {name: np.asarray(array)[: fixed or LARGEST] for name, array in given.items()}
    draw, axes, made = np.random.default_rng(0), batch_axes(shapes), {}
    for value in session.get_inputs():
        kind = value.type.removeprefix("tensor(").removesuffix(")")
        try:
            dtype = np.dtype(_TYPES.get(kind, kind))
        except TypeError as error:
            raise Unsupported(f"input '{value.name}' is a {value.type}, for which no random values can be made") from error
        lengths = enumerate(value.shape)
        shape = [n if isinstance(n, int) else EXAMPLES if axis == axes[value.name] else LENGTH for axis, n in lengths]
        floats = draw.standard_normal(shape)
        made[value.name] = (floats if dtype.kind == "f" else floats > 0).astype(dtype)
    return made


def outputs(session: onnxruntime.InferenceSession, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """All outputs of one run.

    Raises:
        InvalidRequest: the inputs don't fit the file.
    """
    try:
        return [np.asarray(value) for value in session.run(None, dict(inputs))]
    except _REFUSALS as error:
        reason = " ".join(str(error).split())[:300].rstrip(".")
        raise InvalidRequest(f"the file doesn't run on these inputs: {reason}; give others.") from error


def difference(found: Sequence[np.ndarray], wanted: Sequence[np.ndarray]) -> float:
    """The largest difference of two files' outputs, as a share of the largest value of the output; 0: they are equal.

    Args:
        found, wanted: one array for each output, in the same order.

    Returns:
        At least 0; infinity where shapes differ, or a value is finite in one of the two alone.

    Example:
        >>> difference([np.array([1.0, 2.5])], [np.array([1.0, 2.0])])
        0.25
    """
    shares = [_share(np.asarray(a, np.float64), np.asarray(b, np.float64)) for a, b in zip(found, wanted, strict=True)]
    return max(shares, default=0.0)


def _share(found: np.ndarray, wanted: np.ndarray) -> float:
    """The largest difference of one output, as a share of its largest value."""
    if found.shape != wanted.shape:
        return np.inf
    same = (found == wanted) | (np.isnan(found) & np.isnan(wanted))
    if same.all():
        return 0.0
    gaps = np.abs(found[~same] - wanted[~same])
    largest = np.abs(wanted[np.isfinite(wanted)]).max(initial=0.0)
    return float(gaps.max() / max(largest, 1e-12)) if np.isfinite(gaps).all() else np.inf


def compare(
    original: onnxruntime.InferenceSession, result: onnxruntime.InferenceSession, given: Mapping[str, np.ndarray] | None
) -> tuple[float, str]:
    """Run a file and its conversion on given inputs, or on made ones.

    Args:
        original, result: sessions of the two.
        given: name -> array `[n, ...]`, or None.

    Returns:
        The difference, and an empty sentence; or 0 and the sentence that no inputs could be made on which the file runs.

    Raises:
        InvalidRequest: the file doesn't run on the given inputs, or the conversion doesn't run on what the file runs on.
    """
    try:
        inputs = inputs_for(original, given)
        wanted = outputs(original, inputs)
    except (InvalidRequest, Unsupported) as error:
        if given is not None:
            raise
        why = "it doesn't run on random inputs" if isinstance(error, InvalidRequest) else str(error)
        return 0.0, UNKNOWN.format(why)
    return difference(outputs(result, inputs), wanted), ""
