"""ONNX's own tests of operators pass, but for cases that are listed here with the reason."""

from __future__ import annotations

import pytest

from tests.models.onnx.backend import cases, differs, operators

# Operators of the gallery's files and of the networks in benchmarks/architectures.py, by torch's exporters, tf2onnx and Paddle.
USED = {
    "Add", "And", "ArgMax", "AveragePool", "BatchNormalization", "Cast", "Clip", "Concat", "Constant", "ConstantOfShape",
    "Conv", "ConvTranspose", "CumSum", "Div", "Dropout", "Equal", "Erf", "Exp", "Expand", "Flatten", "Floor", "Gather",
    "GatherElements", "GatherND", "Gelu", "Gemm", "GlobalAveragePool", "GlobalMaxPool", "Greater", "GRU", "HardSigmoid",
    "HardSwish", "Identity", "If", "InstanceNormalization", "IsNaN", "LayerNormalization", "LeakyRelu", "Less", "Log", "Loop",
    "LSTM", "MatMul", "Max", "MaxPool", "Min", "Mod", "Mul", "Neg", "Not", "Or", "Pad", "Pow", "PRelu", "Range", "Reciprocal",
    "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "Relu", "Reshape", "Resize", "Scan",
    "ScatterND", "Shape", "Sigmoid", "Sign", "Sin", "Cos", "Size", "Slice", "Softmax", "Softplus", "Split", "Sqrt", "Squeeze",
    "Sub", "Sum", "Tanh", "Tile", "TopK", "Transpose", "Trilu", "Unsqueeze", "Where",
}  # fmt: skip
NARROW = ("INT4", "INT2", "FLOAT4", "FLOAT8E8M0")  # torch has no such types
WITHOUT = {
    "random numbers of numpy": ("test_bernoulli", "test_training_dropout"),
    "attention in half precision, where ONNX's reference rounds every step": ("test_attention_",),
    "an expected value that is noise below 2e-7": ("test_dft_inverse",),
    "operators that decode images, train, or walk through trees": (
        "test_image_decoder", "test_momentum", "test_nesterov", "test_adam", "test_adagrad", "test_ai_onnx_ml_tree",
        "test_ai_onnx_ml_binarizer",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def failures() -> dict[str, str]:
    return {case.name: reason for case in cases() if (reason := differs(case))}


def known(name: str, reason: str) -> bool:
    narrow = "no element type" in reason and any(kind in reason for kind in NARROW)
    return narrow or any(name.startswith(starts) for starts in WITHOUT.values())


def test_all_cases_pass_but_those_with_a_reason(failures: dict[str, str]) -> None:
    assert {name: reason for name, reason in failures.items() if not known(name, reason)} == {}
    attention = [name for name in failures if name.startswith("test_attention_")]
    assert len(attention) < 20 and all("fp16" in name or "bf16" in name for name in attention)
    assert len(failures) / len(cases()) < 0.08


def test_operators_in_use_pass_but_for_types_that_torch_lacks(failures: dict[str, str]) -> None:
    used = [case for case in cases() if set(operators(case.model.graph)) <= USED]
    floats = [case for case in used if not any(kind in failures.get(case.name, "") for kind in NARROW)]
    passed = [case for case in floats if case.name not in failures]
    assert len(floats) > 500
    assert len(passed) / len(floats) >= 0.98
