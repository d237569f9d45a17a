"""Operators that run in float against the target's expectation are reported, and codes stay in the target's range."""

from __future__ import annotations

import ast
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

import dyncompress
from dyncompress.deployment import audit, ranges, write
from dyncompress.deployment.fusion import _KERNELS, float_operators
from dyncompress.errors import InvalidRequest
from dyncompress.recipe.toml_files import INTEGER_OPS, load_target
from dyncompress.types import Encoding, Target
from tests.deployment.graphs import encode, images, residual

PACKAGE = Path(dyncompress.__file__).parent
TARGET = replace(load_target("onnxruntime-x86-vnni"), kernel_times=None)


def test_operators_left_in_float_are_counted_in_words() -> None:
    float_file, weights = residual()
    activation_ranges = ranges(float_file, [images(8)])
    encodings = {name: (encode(weight), "as_is") for name, weight in weights.items()}
    whole = audit(write(float_file, encodings, activation_ranges, TARGET), TARGET)
    assert float_operators(whole, TARGET) == ""
    del encodings["head"], activation_ranges["a1_o"], activation_ranges["r1"]  # a float weight, and a value without a grid
    part = audit(write(float_file, encodings, activation_ranges, TARGET), TARGET)
    sentence = float_operators(part, TARGET)
    assert part == {"Conv": (3, 5), "Gemm": (0, 1), "Add": (0, 2)}
    assert sentence.startswith(
        "2 of 5 Conv, 1 of 1 Gemm, 2 of 2 Add run in float, where target 'onnxruntime-x86-vnni' expects integer"
    )
    assert float_operators(part, replace(TARGET, integer_ops=("Gemm",))).startswith("1 of 1 Gemm run in float")
    assert float_operators(part, replace(TARGET, integer_ops=())) == ""
    assert float_operators(part, load_target("onnxruntime-x86-vnni")) == "", "its kernel times say what is faster in float"
    assert float_operators(part, replace(TARGET, activation_dtype="float32")) == "", "the target's activations are float"


def test_operators_that_are_expected_are_those_that_can_be_audited(tmp_path: Path) -> None:
    assert set(INTEGER_OPS) == _KERNELS.keys()
    (tmp_path / "mine.toml").write_text('name = "t"\nsummary = "s"\nverified = "schema"\ninteger_ops = ["Cnov"]\n')
    with pytest.raises(InvalidRequest, match=r"mine\.toml: integer_ops is 'Cnov'; did you mean 'Conv'\?"):
        load_target(tmp_path / "mine.toml")


def test_codes_beyond_a_symmetric_range_are_refused() -> None:
    float_file, weights = residual()
    activation_ranges = ranges(float_file, [images(8)])
    encodings: dict[str, tuple[Encoding, str]] = {name: (encode(weight), "as_is") for name, weight in weights.items()}
    codes = encodings["a1"][0].codes.copy()
    codes.flat[0] = -128
    encodings["a1"] = replace(encodings["a1"][0], codes=codes), "as_is"
    with pytest.raises(InvalidRequest, match=r"'a1' has codes from -128 to 127, target .* takes \[-127, 127\]"):
        write(float_file, encodings, activation_ranges, TARGET)
    assert write(float_file, encodings, activation_ranges, replace(TARGET, weight_symmetric_range=False))
    codes = np.clip(encodings["a1"][0].codes, -8, 7)
    encodings["a1"] = Encoding(codes, encodings["a1"][0].scale, 4), "as_is"
    assert write(float_file, encodings, activation_ranges, TARGET), "below 8 bits the whole range is used"


def test_every_field_of_a_target_is_read_by_the_package() -> None:
    read: set[str] = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())) if path.parent.name != "types" else ():
            if isinstance(node, ast.Attribute) and ast.unparse(node.value).rpartition(".")[2] == "target":
                read.add(node.attr)
    assert {field.name for field in fields(Target)} - read == set()
