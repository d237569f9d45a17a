"""The headline: bytes that ship, accuracy or agreement, milliseconds and certificate, in text, JSON and HTML."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from dyncompress.reports import as_json, as_text, page
from dyncompress.reports.headline import headline
from dyncompress.types import Certificate, OnnxFile, Speed

SPEED = Speed(0.004, 0.001, 4.0, 40, processor="A Processor")


@pytest.fixture
def packed(file: OnnxFile) -> OnnxFile:
    return replace(file, packed=b"\0" * 300, speed=SPEED)


def test_a_container_counts_with_its_own_bytes(packed: OnnxFile) -> None:
    assert headline(packed)[0] == "bytes: 9,000 -> 300 (30.00 times smaller; the ONNX file in the container takes 2,000)"
    data = as_json(packed, {})["bytes"]
    assert (data["before"], data["after"], data["times_smaller"], data["file"]) == (9_000, 300, 30.0, 2_000)
    assert "30.00×" in page(packed) and "300 bytes ship" in page(packed)


def test_the_headline_comes_first_everywhere(packed: OnnxFile) -> None:
    text, html, data = as_text(packed), page(packed), as_json(packed, {})
    assert text.splitlines()[:4] == headline(packed)
    assert [line.partition(":")[0] for line in headline(packed)] == ["bytes", "accuracy", "time", "certificate"]
    assert list(data)[:5] == ["bytes", "accuracy", "agreement", "milliseconds", "statement"]
    assert (
        0
        < html.index('class="figures"')
        < html.index("<h2>Certificate")
        < html.index("<h2>Plans considered" if "Plans c" in html else "<h2>Bytes")
    )


def test_accuracy_where_there_are_labels_else_agreement_else_the_outputs(file: OnnxFile, certificate: Certificate) -> None:
    assert headline(file)[1] == "accuracy: 99 % -> 98.75 % (8 -> 10 errors on 800 held-out examples)"
    alone = replace(file, certificate=None)
    assert headline(alone)[1] == "agreement: the file predicts what the original does on 99.8 % of 256 calibration examples"
    agreed = replace(certificate, risk="agreement", lines=(replace(certificate.lines[0], point=0.25),))
    assert headline(replace(file, certificate=agreed))[1].endswith("on 75 % of 800 held-out examples")
    numbers = replace(alone, parity=replace(file.parity, agreement=float("nan")))
    assert headline(numbers)[1].startswith("outputs: the file's differ from the original's by 1 % (RMS)")
    assert "RMS difference of the outputs" in page(numbers)
    assert as_json(numbers, {})["agreement"]["share"] is None and as_json(numbers, {})["accuracy"] is None


def test_times_name_the_processor_or_say_why_there_are_none(file: OnnxFile) -> None:
    timed = replace(file, speed=SPEED)
    assert headline(timed)[2].startswith("time: 4 ms -> 1 ms a run, 4.00 times faster (measured here: A Processor, 1 thread")
    assert as_json(timed, {})["milliseconds"]["after"] == pytest.approx(1.0)
    assert "A Processor" in page(timed)
    slower = replace(file, speed=replace(SPEED, ratio=0.5))
    assert "2.00 times slower" in headline(slower)[2]
    for speed, reason in ((None, "dyncompress bench"), (Speed(reason="this processor shows none of vnni"), "none of vnni")):
        untimed = replace(file, speed=speed)
        assert headline(untimed)[2].startswith("time: not measured; ") and reason in headline(untimed)[2]
        assert reason in as_json(untimed, {})["milliseconds"]["reason"] and reason in page(untimed)
        json.dumps(as_json(untimed, {}), allow_nan=False)


def test_no_backticks_on_the_page(file: OnnxFile) -> None:
    noted = replace(file, notes=("run `dyncompress bench`",))
    assert "`" not in page(noted) and "<code>dyncompress bench</code>" in page(noted)
