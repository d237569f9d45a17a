"""torch's exporter reads its table of operators once a process, and is left as it was found."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dyncompress.models.torch import exporting
from dyncompress.models.torch.exporting import ExportInputs

registration = pytest.importorskip("torch.onnx._internal.exporter._registration")


def exported(width: int) -> bytes:
    inputs = ExportInputs({"x": torch.ones(2, width)}, ("x",), {})
    return exporting._export(nn.Linear(width, 3).eval(), inputs, True, True).SerializeToString()


def test_the_table_is_read_at_the_first_export_only(monkeypatch: pytest.MonkeyPatch) -> None:
    apis, calls = registration.onnxscript_apis, []
    read = apis.get_torchlib_ops

    def counted() -> list:
        calls.append(1)
        return read()

    monkeypatch.setattr(exporting, "_torchlib", [])
    monkeypatch.setattr(apis, "get_torchlib_ops", counted)
    assert exported(4) and exported(5)
    assert len(calls) == 1
    assert apis.get_torchlib_ops is counted, "the exporter's own function is back"


def test_an_exporter_without_a_table_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registration, "onnxscript_apis", object(), raising=False)
    with exporting._operators_read_once():
        pass
