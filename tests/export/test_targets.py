from __future__ import annotations

import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from dyncompress.deployment import Session, check, ranges, write
from dyncompress.types import Encoding, KernelTimes, Target
from tests.deployment.graphs import encode, images, residual

FOLDER = Path(__file__).resolve().parents[2] / "export" / "targets"
FILES = sorted(FOLDER.glob("*.toml"))
KEYS = {field.name for field in fields(Target)}


def load(path: Path) -> Target:
    values: dict[str, Any] = tomllib.loads(path.read_text())
    arguments: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    times = arguments.pop("kernel_times", None)
    return Target(**arguments, kernel_times=None if times is None else KernelTimes(**times))


def test_the_shipped_targets_exist() -> None:
    names = {"onnxruntime-x86-vnni", "onnxruntime-x86-avx2", "onnxruntime-arm64", "onnxruntime-transformer-dynamic", "litert"}
    assert {path.stem for path in FILES} == names | {
        "generic-int8",
        "openvino",
        "litert",
        "tensorrt",
        "qnn-htp",
        "stm32",
        "esp-dl",
    }


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_keys_are_the_fields_of_target_one_to_one(path: Path) -> None:
    assert tomllib.loads(path.read_text()).keys() | {"kernel_times"} == KEYS
    assert load(path).name == path.stem


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_values_are_of_the_fields_kinds(path: Path) -> None:
    target, hints = load(path), get_type_hints(Target)
    for name, hint in hints.items():
        value = getattr(target, name)
        if hint in (str, int, bool):
            assert type(value) is hint, name
        elif isinstance(value, tuple):
            assert all(isinstance(entry, get_args(hint)[0]) for entry in value), name
    assert target.verified in ("runtime", "schema") and target.activation_dtype in ("uint8", "int8", "float32")
    assert target.weight_granularity in ("channel", "tensor") and set(target.weight_bits) <= set(range(2, 9))
    assert target.verified != "runtime" or target.processor_flags
    assert not target.activation_types or target.activation_dtype in target.activation_types
    assert not target.element_types or {"float32", "int8", "int32", target.activation_dtype} <= set(target.element_types)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_numbers_that_matter_name_their_source(path: Path) -> None:
    names = ("opset", "ir_version", "activation_dtype", "channel_multiple", "verified", "activation_types", "largest_rank")
    lines = {line.partition("=")[0].strip(): line for line in path.read_text().splitlines()}
    assert all("#" in lines[name] for name in names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_residual_network_is_written_checked_and_runs_for_each(path: Path) -> None:
    target = load(path)
    float_file, weights = residual()
    encodings: dict[str, tuple[Encoding, str]] = {}
    for name, weight in weights.items():
        full = encode(weight, 7 if target.reduce_range else 8)
        encodings[name] = (Encoding(full.codes, full.scale, 8), "as_is")
    body = write(float_file, encodings, ranges(float_file, [images(8)]), target)
    check(body)
    assert Session(body, target).run(images(3))[0].shape == (3, 5)
