"""Is the file well formed, and does it compute what the model computes?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx

from dyncompress.deployment.channels import channel_errors
from dyncompress.deployment.session import Session
from dyncompress.errors import Differs, Unsupported
from dyncompress.types import OutputParity, Parity, Target


def check(body: bytes) -> None:
    """onnx's own full check with strict shape inference.

    Raises:
        Unsupported: the checker refuses the file; its first line says why.
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
    """How far the float graph and the shipped file are from the reference.

    Args:
        float_file: the exported graph before quantization.
        body: the shipped file.
        reference_outputs: of the model that both were made of, each `[n, ...]`.
        inputs: by name, each `[n, ...]`.
        target: session options.

    Returns:
        The differences; agreement is nan unless the first output is a table of scores `[n, classes]`.

    Raises:
        Differs: the outputs have other shapes than the reference.
    """
    return compared(reference_outputs, Session(float_file, target).run(inputs), Session(body, target).run(inputs))


def compared(
    reference_outputs: Sequence[np.ndarray],
    exported: Sequence[np.ndarray],
    shipped: Sequence[np.ndarray],
    original: Sequence[np.ndarray] | None = None,
    names: Sequence[str] = (),
) -> Parity:
    """`parity` of outputs that are at hand.

    Args:
        reference_outputs: of the compressed torch model.
        exported: of the float graph.
        shipped: of the file.
        original: of the model that came in; None: the reference is that model.
        names: of the outputs; numbers where there are none.

    Raises:
        Differs: the outputs have other shapes than the reference.
    """
    reference = [np.asarray(out, np.float64) for out in reference_outputs]
    first = reference if original is None else [np.asarray(out, np.float64) for out in original][: len(reference)]
    for name, outputs in (("float graph", exported), ("shipped file", shipped), ("model that came in", first)):
        shapes = [out.shape for out in outputs]
        if shapes != [out.shape for out in reference]:
            raise Differs(f"the {name} has outputs {shapes}, the model has {[out.shape for out in reference]}; check the export.")
    titles = names or [str(index) for index in range(len(reference))]
    kinds = [np.asarray(out).dtype.kind for out in reference_outputs]
    return Parity(
        float_error=max(_float_error(a, b) for a, b in zip(exported, reference, strict=True)),
        relative_error=max(_relative(a, b) for a, b in zip(shipped, first, strict=True)),
        agreement=_agreement(shipped[0], first[0]),
        n=len(reference[0]),
        outputs=tuple(_output(*parts) for parts in zip(titles, kinds, shipped, first, reference, strict=True)),
        compressed_error=max(_relative(a, b) for a, b in zip(shipped, reference, strict=True)),
        compressed_agreement=_agreement(shipped[0], reference[0]),
    )


def _output(name: str, kind: str, shipped: np.ndarray, original: np.ndarray, reference: np.ndarray) -> OutputParity:
    """One output, with its worst channel; indices and masks have none."""
    pooled = _relative(shipped, original)
    if kind != "f":
        return OutputParity(name, pooled)
    found = channel_errors(shipped, original)
    lost = tuple((along.axis, int(channel)) for along in found for channel in along.lost)
    judged = [along for along in found if along.judged.any()]
    if not judged:
        return OutputParity(name, pooled, lost=lost)
    worst = max(judged, key=lambda along: along.errors[along.worst])
    made = max(float(along.errors[along.worst]) for along in channel_errors(shipped, reference))
    return OutputParity(name, pooled, worst.axis, worst.worst, float(worst.errors[worst.worst]), made, lost)


def _agreement(found: np.ndarray, wanted: np.ndarray) -> float:
    """Share of examples with the same largest score; nan where outputs aren't `[n, classes]`."""
    scores = wanted.ndim == 2 and wanted.shape[1] > 1
    return float((found.argmax(1) == wanted.argmax(1)).mean()) if scores else float("nan")


def _float_error(found: np.ndarray, wanted: np.ndarray) -> float:
    """Largest difference relative to the output's range; infinities of masks must be at the same places."""
    same = (found == wanted) | (np.isnan(found) & np.isnan(wanted))
    if same.all():
        return 0.0
    gap = np.where(same, 0.0, np.abs(found - np.where(same, 0.0, wanted)))
    finite = wanted[np.isfinite(wanted)]
    return float(gap.max() / max(np.ptp(finite) if finite.size else 0.0, 1e-12))


def _relative(found: np.ndarray, wanted: np.ndarray) -> float:
    """Root mean square difference, relative to the root mean square."""
    same = (found == wanted) | (np.isnan(found) & np.isnan(wanted))
    gap = np.where(same, 0.0, found - np.where(same, 0.0, wanted))
    power = np.square(np.where(np.isfinite(wanted), wanted, 0.0)).mean() if wanted.size else 0.0
    return float(np.sqrt(np.mean(np.square(gap)) / max(power, 1e-24))) if wanted.size else 0.0
