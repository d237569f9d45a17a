"""Check that a file is well formed, and compare its outputs with those of the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx

from dyncompress.deployment.channels import Positions, channel_errors
from dyncompress.deployment.session import Session
from dyncompress.errors import Differs, Unsupported
from dyncompress.types import OutputParity, Parity, Target

_ROUNDING = 1e-6  # absolute


def check(body: bytes) -> None:
    """Run onnx's full check with strict shape inference on a file.

    Raises:
        Unsupported: the checker refuses the file; the message has the first line of its reason.
    """
    model = onnx.load_from_string(body)
    try:
        onnx.checker.check_model(model, full_check=True)
        onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise Unsupported(f"onnx refuses the file: {str(error).strip().splitlines()[0]}") from error


def parity(
    float_file: bytes, body: bytes, reference_outputs: Sequence[np.ndarray], inputs: Mapping[str, np.ndarray], target: Target
) -> Parity:
    """The differences of the float graph's and the file's outputs from those of the model.

    Args:
        float_file: the exported float32 graph before quantization.
        body: the file.
        reference_outputs: of the model that both files come from, each `[n, ...]`.
        inputs: by name, each `[n, ...]`.
        target: whose session options are used.

    Returns:
        The differences. `agreement` is nan unless the first output is a table of scores `[n, classes]`.

    Raises:
        Differs: the outputs have other shapes than the reference's.
    """
    return parity_of_outputs(reference_outputs, Session(float_file, target).run(inputs), Session(body, target).run(inputs))


def parity_of_outputs(
    reference_outputs: Sequence[np.ndarray],
    exported: Sequence[np.ndarray],
    shipped: Sequence[np.ndarray],
    original: Sequence[np.ndarray] | None = None,
    positions: Mapping[str, Positions] | None = None,
) -> Parity:
    """`parity` from outputs instead of files.

    Args:
        reference_outputs: of the compressed torch model, each `[n, ...]`.
        exported: of the float graph.
        shipped: of the file.
        original: of the original model; None: the reference is the original.
        positions: name of an output -> see `channels.channel_axes`, in order; None: the outputs are numbered.

    Raises:
        Differs: the outputs have other shapes than the reference's.
    """
    reference = [np.asarray(out, np.float64) for out in reference_outputs]
    first = reference if original is None else [np.asarray(out, np.float64) for out in original][: len(reference)]
    for name, outputs in (("float graph", exported), ("shipped file", shipped), ("model that came in", first)):
        shapes = [out.shape for out in outputs]
        if shapes != [out.shape for out in reference]:
            raise Differs(
                f"the outputs of the {name} have shapes {shapes}, those of the model {[out.shape for out in reference]}; "
                "check the export."
            )
    known: Mapping[str, Positions] = positions or {str(index): () for index in range(len(reference))}
    return Parity(
        float_error=max(_float_error(a, b) for a, b in zip(exported, reference, strict=True)),
        relative_error=max(_relative(a, b) for a, b in zip(shipped, first, strict=True)),
        agreement=_agreement(shipped[0], first[0]),
        n=len(reference[0]),
        outputs=tuple(_output(*parts) for parts in zip(known.items(), shipped, first, reference, strict=True)),
        compressed_error=max(_relative(a, b) for a, b in zip(shipped, reference, strict=True)),
        compressed_agreement=_agreement(shipped[0], reference[0]),
    )


def _output(known: tuple[str, Positions], shipped: np.ndarray, original: np.ndarray, reference: np.ndarray) -> OutputParity:
    """The differences of one output, with its worst channel; integer and boolean outputs have no channels."""
    (name, positions), pooled = known, _relative(shipped, original)
    if np.asarray(shipped).dtype.kind != "f":
        return OutputParity(name, pooled)
    by_axis = channel_errors(shipped, original, positions)
    lost = tuple((along.axis, int(channel)) for along in by_axis for channel in along.lost)
    judged = [along for along in by_axis if along.judged.any()]
    if not judged:
        return OutputParity(name, pooled, lost=lost)
    worst = max(judged, key=lambda along: along.errors[along.worst])
    file_error = max(float(along.errors[along.worst]) for along in channel_errors(shipped, reference, positions))
    return OutputParity(name, pooled, worst.axis, worst.worst, float(worst.errors[worst.worst]), file_error, lost)


def _agreement(output: np.ndarray, expected: np.ndarray) -> float:
    """Share of examples with the same largest score; nan where the outputs aren't `[n, classes]`."""
    scores = expected.ndim == 2 and expected.shape[1] > 1
    return float((output.argmax(1) == expected.argmax(1)).mean()) if scores else float("nan")


def _float_error(output: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference relative to the output's range; infinities, as of masks, must be at the same places.

    A difference that is rounding error for a value near 1 counts as none, up to a twentieth of the range: sigmoids and softmaxes
    are exact to 1e-7, and not to a share of a range that the examples keep tiny.
    """
    same = (output == expected) | (np.isnan(output) & np.isnan(expected))
    if same.all():
        return 0.0
    gap = np.where(same, 0.0, np.abs(output - np.where(same, 0.0, expected)))
    finite = expected[np.isfinite(expected)]
    spread = max(np.ptp(finite) if finite.size else 0.0, 1e-12)
    return float(gap.max() / spread) if gap.max() > min(_ROUNDING, 0.05 * spread) else 0.0


def _relative(output: np.ndarray, expected: np.ndarray) -> float:
    """Root mean square difference, relative to the root mean square of the expected values."""
    same = (output == expected) | (np.isnan(output) & np.isnan(expected))
    gap = np.where(same, 0.0, output - np.where(same, 0.0, expected))
    power = np.square(np.where(np.isfinite(expected), expected, 0.0)).mean() if expected.size else 0.0
    return float(np.sqrt(np.mean(np.square(gap)) / max(power, 1e-24))) if expected.size else 0.0
