"""What a machine and a person read about one run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from dyncompress.certificates.wording import VACUOUS
from dyncompress.reports import as_json, as_text, certificate_json, certificate_text
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
    for words in ("9,000 -> 2,000", alone, "weights 0.004", "8 -> 10 errors on 800 held-out examples", certificate.statement):
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


def test_errors_are_counted_among_examples_and_groups_are_told(file: OnnxFile, certificate: Certificate) -> None:
    assert "accuracy: 99 % -> 98.75 % (8 -> 10 errors on 800 held-out examples)" in as_text(file)
    counts = {**certificate.counts, "original_errors": 61, "file_errors": 57}
    grouped = replace(certificate, n=6, counts=counts, evidence={**certificate.evidence, "groups": "00"})
    text = as_text(replace(file, certificate=grouped))
    assert "61 -> 57 errors on 800 held-out examples in 6 groups" in text
    assert "n = 6" not in text and "  800 held-out examples in 6 groups; examples 800" in certificate_text(grouped)


def test_a_vacuous_certificate_is_said_to_promise_nothing(certificate: Certificate) -> None:
    vacuous = replace(certificate, lines=(replace(certificate.lines[0], upper=1.0),), promise=None)
    assert "(PROMISES NOTHING: the bound is vacuous" in certificate_text(vacuous)
    said = replace(vacuous, statement=f"At most 1.0000; {VACUOUS}.")
    assert certificate_text(said).count("vacuous") == 1 and "(PROMISES NOTHING)" in certificate_text(said)
    limit = replace(vacuous, promise=1.0)
    assert "(PROMISES NOTHING" in certificate_text(limit) and "promise kept" not in certificate_text(limit)
    assert "PROMISE NOT KEPT" in certificate_text(replace(vacuous, kept=False, promise=0.1))
    assert certificate_json(vacuous)["vacuous"] is True and certificate_json(certificate)["vacuous"] is False
    assert "PROMISES NOTHING" not in certificate_text(certificate)
