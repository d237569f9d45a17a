"""Is the file well formed, and does it compute what the model computes?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx

from dyncompress.deployment.session import Session
from dyncompress.errors import Differs, Unsupported
from dyncompress.types import Parity, Target


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


def compared(reference_outputs: Sequence[np.ndarray], exported: Sequence[np.ndarray], shipped: Sequence[np.ndarray]) -> Parity:
    """`parity` of outputs that are at hand: of the model, the float graph and the shipped file.

    Raises:
        Differs: the outputs have other shapes than the reference.
    """
    reference = [np.asarray(out, np.float64) for out in reference_outputs]
    for name, outputs in (("float graph", exported), ("shipped file", shipped)):
        shapes = [out.shape for out in outputs]
        if shapes != [out.shape for out in reference]:
            raise Differs(f"the {name} has outputs {shapes}, the model has {[out.shape for out in reference]}; check the export.")
    first = reference[0]
    scores = first.ndim == 2 and first.shape[1] > 1
    return Parity(
        float_error=max(float(np.abs(a - b).max() / max(np.ptp(b), 1e-12)) for a, b in zip(exported, reference, strict=True)),
        relative_error=max(_relative(a, b) for a, b in zip(shipped, reference, strict=True)),
        agreement=float((shipped[0].argmax(1) == first.argmax(1)).mean()) if scores else float("nan"),
        n=len(first),
    )


def _relative(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.sqrt(np.mean((found - wanted) ** 2) / max(np.mean(wanted**2), 1e-24)))
