"""`verify` distinguishes the sealed file and certificate from anything else."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dyncompress as dc
from dyncompress import deployment
from dyncompress.certificates.stored import from_json, to_json
from dyncompress.pipeline.verification import certificate_digest, without_rows
from tests import tiny
from tests.tiny import CALIBRATION, HELD_OUT, network

X, Y = HELD_OUT


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    """A certified file and its certificate in one directory."""
    return tiny.certified_file().save(tmp_path)


def changed(path: Path, change: dict[str, Any]) -> None:
    """Write dotted keys of the certificate beside `path`."""
    table = json.loads(path.with_name("certificate.json").read_text())
    for dotted, value in change.items():
        *parents, last = dotted.split(".")
        node = table
        for word in parents:
            node = node[int(word)] if isinstance(node, list) else node[word]
        assert node[last] != value
        node[last] = value
    path.with_name("certificate.json").write_text(json.dumps(table))


# ---------------------------------------------------------------- the sealed file
def test_a_sealed_file_verifies_from_disk_and_from_memory(sealed: Path) -> None:
    file = tiny.certified_file()
    assert file.certificate is not None and sealed.read_bytes() == file.content
    assert file.content.startswith(file.body) and len(file.content) - len(file.body) < 2048
    assert dc.verify(file) is file.certificate
    found = dc.verify(sealed)
    assert certificate_digest(found) == certificate_digest(file.certificate) and str(found) == file.certificate.statement
    (sealed.parent / "elsewhere.json").write_bytes(sealed.with_name("certificate.json").read_bytes())
    assert dc.verify(sealed, certificate=sealed.parent / "elsewhere.json") == found


def test_running_again_gives_identical_counts(sealed: Path) -> None:
    certificate = tiny.certified_file().certificate
    assert certificate is not None
    np.savez(sealed.parent / "held_out.npz", x=X, y=Y)
    for data in (HELD_OUT, {"x": X, "labels": Y}, dc.HeldOut({"x": X}, Y), sealed.parent / "held_out.npz"):
        found = dc.verify(sealed, held_out=data)
        assert found.counts == certificate.counts and "examples_that_differ" not in found.context


def test_the_layout_of_the_json_does_not_matter(sealed: Path) -> None:
    path = sealed.with_name("certificate.json")
    path.write_text(json.dumps(json.loads(path.read_text()), sort_keys=True))
    assert dc.verify(sealed).kept


# ---------------------------------------------------------------- anything else
@pytest.mark.parametrize("place", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_one_changed_byte_of_the_body_is_detected(sealed: Path, place: float) -> None:
    content, body = bytearray(sealed.read_bytes()), tiny.file().body
    content[int(place * len(body))] ^= 1
    sealed.write_bytes(content)
    with pytest.raises(dc.Altered, match="the file was changed"):
        dc.verify(sealed)


def test_a_changed_seal_is_detected(sealed: Path) -> None:
    content = sealed.read_bytes()
    at = content.index(b"With confidence 95")
    for other in (content[:at] + b"With confidence 99" + content[at + 18 :], content + b"\0", content[:-20]):
        sealed.write_bytes(other)
        with pytest.raises(dc.Altered):
            dc.verify(sealed)
    sealed.write_bytes(content[:200])
    with pytest.raises(dc.InvalidRequest, match="carries no seal"):
        dc.verify(sealed)


@pytest.mark.parametrize(
    "change",
    [
        {"statement": "It is perfect."},
        {"delta": 0.01},
        {"lines.0.upper": 0.0},
        {"lines.0.point": -0.5},
        {"counts.better": 99},
        {"n": 100_000},
        {"promise": 0.5},
        {"kept": False},
        {"valid_as": "alone"},
        {"assumptions": []},
        {"environment.version": "0"},
        {"digests.examples": "0" * 64},
        {"digests.original": "0" * 64},
        {"digests.file": "0" * 64},
        {"context.dropped_as_seen": [1, 2]},
        {"selection": {"plans": 3}},
        {"evidence.n": "2000"},
        {"risk": "agreement"},
    ],
)
def test_nothing_in_the_certificate_can_be_changed(sealed: Path, change: dict[str, Any]) -> None:
    changed(sealed, change)
    with pytest.raises(dc.Altered, match=r"certificate .*fetch the two together again|certificate .*get the certificate again"):
        dc.verify(sealed)


def test_the_evidence_cannot_be_exchanged(sealed: Path) -> None:
    """Consistent losses, lines and counts of another file are put under the digest of this file."""
    table = json.loads(sealed.with_name("certificate.json").read_text())
    other = dc.certify(tiny.file(), reference=network(), held_out=(X[:600], Y[:600]))
    assert other.certificate is not None
    foreign = replace(other.certificate, digests=table["digests"], statement=table["statement"])
    sealed.with_name("certificate.json").write_text(to_json(foreign))
    with pytest.raises(dc.Altered, match="another certificate"):
        dc.verify(sealed)


@pytest.mark.parametrize(
    "held_out", [(X[:-1], Y[:-1]), (X[::-1].copy(), Y[::-1].copy()), (X, (Y + 1) % 4), (X + np.float32(1e-6), Y)]
)
def test_other_examples_are_refused(sealed: Path, held_out: Any) -> None:
    with pytest.raises(dc.InvalidRequest, match="aren't the certificate's held-out examples"):
        dc.verify(sealed, held_out=held_out)


def test_files_that_cannot_be_verified_are_reported(sealed: Path, tmp_path: Path) -> None:
    with pytest.raises(dc.InvalidRequest, match="carries no seal"):
        dc.verify(tiny.file())
    with pytest.raises(dc.InvalidRequest, match=r"absent\.onnx: no such file"):
        dc.verify(tmp_path / "absent.onnx")
    bare = replace(tiny.certified_file(), certificate=None)
    with pytest.raises(dc.InvalidRequest, match="give certificate=path"):
        dc.verify(bare)
    certificate = sealed.with_name("certificate.json")
    whole = certificate.read_text()
    for text, fact in (
        (whole[: len(whole) // 2], "whole JSON"),
        ("[]", "no certificate"),
        (whole.replace('"kept": true', '"kept": false, "kept": true'), "'kept' twice"),
        (whole.replace('"kept"', '"keep"'), "kept"),
    ):
        certificate.write_text(text)
        with pytest.raises(dc.InvalidRequest, match=fact):
            dc.verify(sealed)
    certificate.unlink()
    with pytest.raises(dc.InvalidRequest, match=r"neither model\.certificate\.json nor certificate\.json"):
        dc.verify(sealed)


def test_risks_that_need_more_than_the_file_are_checked_from_the_evidence(sealed: Path) -> None:
    own = dc.certify(tiny.file(), reference=network(), held_out=HELD_OUT, risk=lambda out, y: 0.5 * (out.argmax(1) != y))
    for file in (own, dc.certify(tiny.file(), reference=network(), held_out=X)):
        assert dc.verify(file).kept
        with pytest.raises(dc.Unsupported, match="verify without held-out data"):
            dc.verify(file, held_out=HELD_OUT)


# ---------------------------------------------------------------- another processor, dropped examples
class Elsewhere:
    """A session whose scores differ on some examples."""

    wrong = 0

    def __init__(self, *args: Any) -> None:
        self.session = Session(*args)
        self.input_names, self.output_names = self.session.input_names, self.session.output_names

    def run(self, inputs: Any) -> tuple[np.ndarray, ...]:
        scores = self.session.run(inputs)[0].copy()
        right = np.flatnonzero(scores.argmax(1) == Y)[: self.wrong]
        scores[right] = -scores[right]
        return (scores,)


Session = deployment.Session


@pytest.mark.parametrize("promise", [None, 0.03])
def test_counts_of_another_processor_are_stated_or_break_the_promise(
    monkeypatch: pytest.MonkeyPatch, promise: float | None
) -> None:
    file = dc.certify(tiny.file(), reference=network(), held_out=HELD_OUT, promise=promise)
    assert file.certificate is not None
    monkeypatch.setattr(deployment, "Session", Elsewhere)
    monkeypatch.setattr(Elsewhere, "wrong", 2)
    found = dc.verify(file, held_out=HELD_OUT)
    assert (
        found.context["examples_that_differ"] == 2 and found.counts["file_errors"] == file.certificate.counts["file_errors"] + 2
    )
    assert found.lines[0].upper > file.certificate.lines[0].upper and found.assumptions == file.certificate.assumptions
    monkeypatch.setattr(Elsewhere, "wrong", 200)
    if promise is None:
        assert dc.verify(file, held_out=HELD_OUT).lines[0].upper > 0.2
    else:
        with pytest.raises(dc.NotCertified, match="200 examples differ on this processor"):
            dc.verify(file, held_out=HELD_OUT)


def test_examples_that_were_dropped_are_dropped_again() -> None:
    x, y = np.concatenate([X[:500], CALIBRATION[:3], X[500:]]), np.concatenate([Y[:500], [0, 1, 2], Y[500:]])
    file = dc.certify(tiny.file(), reference=network(), held_out=(x, y))
    assert file.certificate is not None and file.certificate.n == len(X)
    assert file.certificate.context["dropped_as_seen"] == [500, 501, 502]
    assert any("3 held-out examples that compression had seen were dropped" in line for line in file.certificate.assumptions)
    assert file.certificate.counts == dc.verify(file, held_out=(x, y)).counts == dc.verify(file, held_out=HELD_OUT).counts
    with pytest.raises(dc.InvalidRequest, match="very same ones"):
        dc.verify(file, held_out=(x[1:], y[1:]))


def test_copies_that_were_dropped_are_dropped_again() -> None:
    """The data may be those that were given, or those that were certified."""
    x, y = np.concatenate([CALIBRATION[:3], X, X[::20]]), np.concatenate([[0, 1, 2], Y, Y[::20]])
    file = dc.certify(tiny.file(), reference=network(), held_out=(x, y))
    assert file.certificate is not None and file.certificate.n == len(X)
    assert file.certificate.counts == dc.verify(file, held_out=(x, y)).counts == dc.verify(file, held_out=HELD_OUT).counts
    groups = np.arange(len(y)) % 300
    grouped = dc.certify(tiny.file(), reference=network(), held_out=(x, y, groups))
    assert grouped.certificate is not None and dc.verify(grouped, held_out=(x, y, groups)).counts == grouped.certificate.counts
    with pytest.raises(dc.InvalidRequest, match="very same ones"):
        dc.verify(file, held_out=(x[:-1], y[:-1] * 0))


def resealed(certificate: dc.Certificate) -> dc.OnnxFile:
    """The file with another certificate, which its seal names."""
    file = tiny.certified_file()
    entry = {"statement": certificate.statement, "certificate": certificate_digest(certificate)}
    return replace(file, certificate=certificate, sealed=deployment.seal(file.body, entry))


@pytest.mark.parametrize(
    ("session", "kind", "fact"),
    [
        ('{"a": "1", "a": "2"}', dc.InvalidRequest, "the key 'a' twice"),
        ('{"a": NaN}', dc.InvalidRequest, "NaN"),
        ("{", dc.InvalidRequest, "whole JSON"),
        ("[]", dc.Altered, "table of options"),
    ],
)
def test_session_options_with_repeated_keys_are_refused(session: str, kind: type[Exception], fact: str) -> None:
    certificate = tiny.certified_file().certificate
    assert certificate is not None
    environment = {**certificate.environment, "session": session}
    with pytest.raises(kind, match=fact):
        dc.verify(resealed(replace(certificate, environment=environment)), held_out=HELD_OUT)


def test_dropped_rows_are_numbers() -> None:
    certificate = tiny.certified_file().certificate
    assert certificate is not None
    context = {**certificate.context, "dropped_as_repeated": ["a"]}
    with pytest.raises(dc.Altered, match="something else than numbers"):
        dc.verify(resealed(replace(certificate, context=context)), held_out=HELD_OUT)


def test_dropped_rows_are_left_out() -> None:
    held_out = dc.HeldOut({"a": np.arange(5), "b": np.arange(10).reshape(5, 2)}, np.arange(5), None)
    found = without_rows(held_out, (0, 3))
    assert found.inputs["a"].tolist() == [1, 2, 4] and found.inputs["b"][:, 0].tolist() == [2, 4, 8]
    assert found.labels is not None and found.labels.tolist() == [1, 2, 4] and found.groups is None and len(held_out) == 5


def test_the_certificate_is_restored_from_its_text() -> None:
    certificate = tiny.certified_file().certificate
    assert certificate is not None and certificate_digest(from_json(to_json(certificate))) == certificate_digest(certificate)
