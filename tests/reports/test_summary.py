"""What a machine and a person read about one run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from dyncompress.reports import as_json, as_text, certificate_text
from dyncompress.types import Certificate, OnnxFile


def test_the_json_object_is_strict_json_with_the_promised_keys(file: OnnxFile) -> None:
    nan = replace(file, parity=replace(file.parity, agreement=float("nan")))
    data = json.loads(json.dumps(as_json(nan, {"model.onnx": Path("out/model.onnx")}), allow_nan=False))
    assert data["bytes"]["before"] == 9_000
    assert data["bytes"]["after"] == len(file.content)
    assert data["macs"] == {"before": 87_712, "after": 87_712}
    assert data["left_alone"] == {"weights": 0.1063, "macs": 0.0018, "layers": {"head": "recipe 'r' leaves it alone"}}
    assert data["parity"]["agreement"] is None
    assert data["certificate"]["lines"][0]["upper"] == 0.012
    assert "evidence" not in data["certificate"]
    assert data["paths"] == {"model.onnx": "out/model.onnx"}


def test_every_run_tells_bytes_shares_stages_and_the_certificate(file: OnnxFile, certificate: Certificate) -> None:
    text = as_text(file)
    alone = "left alone: 10.6 % of the weights, 0.18 % of the MACs"
    for words in ("9,000 -> 2,000", alone, "weights 0.004", "examples: 8 -> 10", certificate.statement):
        assert words in text
    assert "not certified" in as_text(replace(file, certificate=None))


def test_a_sealed_file_counts_every_byte(file: OnnxFile) -> None:
    sealed = replace(file, sealed=file.body + b"seal" * 25)
    assert as_json(sealed, {})["bytes"]["after"] == 2_100
    assert "9,000 -> 2,100" in as_text(sealed)


def test_a_broken_promise_is_said_aloud(certificate: Certificate) -> None:
    assert "PROMISE NOT KEPT" in certificate_text(replace(certificate, kept=False))
    assert "(promise kept)" in certificate_text(certificate)
    assert "promise" not in certificate_text(replace(certificate, promise=None))
