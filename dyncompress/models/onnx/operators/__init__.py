"""What each ONNX operator computes, as a torch function: a file a family, the index of all here."""

from __future__ import annotations

from collections.abc import Mapping

from dyncompress.models.onnx.node import Function, Functions, NoTorchFunctionError
from dyncompress.models.onnx.operators import (
    activations,
    attention,
    constants,
    control,
    convolutions,
    elementwise,
    images,
    indexing,
    integers,
    normalization,
    pooling,
    products,
    recurrent,
    reductions,
    sequences,
    shapes,
    signal,
    text,
)

# Domain -> operators. `ai.onnx` is another name of ONNX's own domain.
FUNCTIONS: Mapping[str, Functions] = {
    "": {
        **activations.FUNCTIONS,
        **attention.FUNCTIONS,
        **constants.FUNCTIONS,
        **control.FUNCTIONS,
        **convolutions.FUNCTIONS,
        **elementwise.FUNCTIONS,
        **images.FUNCTIONS,
        **indexing.FUNCTIONS,
        **integers.FUNCTIONS,
        **normalization.FUNCTIONS,
        **pooling.FUNCTIONS,
        **products.FUNCTIONS,
        **recurrent.FUNCTIONS,
        **reductions.FUNCTIONS,
        **sequences.FUNCTIONS,
        **shapes.FUNCTIONS,
        **signal.FUNCTIONS,
        **text.FUNCTIONS,
    },
    "ai.onnx.preview": attention.PREVIEW,
    "ai.onnx.ml": {**indexing.ML_FUNCTIONS, **text.ML_FUNCTIONS},
}


def function_of(domain: str, operator: str, version: int) -> Function:
    """The function of an operator in a version of its operator set.

    Raises:
        NoTorchFunctionError: there is none.

    Example:
        >>> function_of("", "Identity", 13).__name__
        'identity'
    """
    versions = FUNCTIONS.get("" if domain == "ai.onnx" else domain, {}).get(operator, {})
    since = [number for number in versions if number <= version]
    if not since:
        raise NoTorchFunctionError(f"no torch function for {domain + '.' if domain else ''}{operator} of version {version}")
    return versions[max(since)]
