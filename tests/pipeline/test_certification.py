"""Certificates of one file for every kind of held-out data, and fixed-sequence testing along a path of plans."""

from __future__ import annotations

import copy
import hashlib
import math
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import dyncompress as dc
from dyncompress import deployment
from dyncompress.certificates.clopper_pearson import ClopperPearson
from dyncompress.certificates.detection import Detection
from dyncompress.certificates.evidence import UNITS
from dyncompress.certificates.fixed_sequence import path_digest
from dyncompress.certificates.promise import Promise
from dyncompress.certificates.wording import is_vacuous
from dyncompress.models.torch.model import TorchModel
from dyncompress.models.torch.opening import open_model
from dyncompress.pipeline.certification import (
    CertificateRequest,
    Trial,
    boldest,
    refuse_too_few,
    trial,
    without_repeats,
    without_seen,
)
from dyncompress.recipe.plan_file import plan_to_toml
from tests import tiny
from tests.tiny import CALIBRATION, HELD_OUT, network

X, Y = HELD_OUT


def certify(**asked: Any) -> dc.Certificate:
    found = dc.certify(tiny.file(), reference=network(), **{"held_out": HELD_OUT, **asked}).certificate
    assert found is not None
    return found


@cache
def adapter() -> TorchModel:
    return open_model(network(), {"x": X[:2]})


@cache
def broken_file() -> dc.OnnxFile:
    """The same plan, applied to a network whose head gives the opposite answers."""
    opposite = copy.deepcopy(network())
    opposite.head.weight.neg_()
    return dc.export(dc.apply(opposite, replace(tiny.plan(), digest=""), calibration=CALIBRATION))


def file_errors() -> np.ndarray:
    return tiny.predictions(deployment.Session(tiny.file().body, tiny.file().target).run({"x": X})[0]) != Y


# ---------------------------------------------------------------- one file
def test_the_counts_of_a_certificate_equal_a_direct_count() -> None:
    found = certify()
    before, after = tiny.predictions(tiny.original_scores()) != Y, file_errors()
    assert found.counts == {
        "examples": len(Y),
        "worse": int((after & ~before).sum()),
        "better": int((before & ~after).sum()),
        "original_errors": int(before.sum()),
        "file_errors": int(after.sum()),
    }
    assert found.delta == 0.05 and sum(line.delta for line in found.lines) <= 0.05 + 1e-12
    assert found.lines[0].point == pytest.approx(after.mean() - before.mean())
    assert "only look" in found.valid_as and any("independent" in line for line in found.assumptions)
    assert found.digests["file"] == hashlib.sha256(tiny.file().body).hexdigest()
    assert found.digests["original"] == adapter().state_digest == tiny.plan().digest
    bounds = found.context["code_length_bounds"]
    assert bounds["original"] > before.mean() and "bounds nothing" in found.context["code_length_note"]


def test_without_labels_agreement_is_certified() -> None:
    found = certify(held_out=X)
    differ = int((tiny.predictions(tiny.original_scores()) != tiny.predictions(ran())).sum())
    assert found.risk == "agreement" and found.counts["file_errors"] == differ and "code_length_bounds" not in found.context
    line = ClopperPearson()(np.repeat([1.0, 0.0], [differ, len(X) - differ]), 0.05)
    assert found.lines[0].upper == pytest.approx(line.upper)
    assert found.lines == certify(held_out={"x": X}).lines == certify(held_out=HELD_OUT, risk="agreement").lines


def ran() -> np.ndarray:
    return deployment.Session(tiny.file().body, tiny.file().target).run({"x": X})[0]


def halved(outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return 0.5 * (outputs.argmax(1) != labels)


def test_a_risk_of_the_users_own() -> None:
    found = certify(risk=halved)
    assert found.risk == "halved" and found.lines[0].point == pytest.approx(certify().lines[0].point / 2, abs=1e-4)
    assert found.lines[0].upper > found.lines[0].point and found.lines[0].method.startswith("betting")


@pytest.mark.parametrize(
    ("risk", "facts"),
    [
        (lambda out, y: (out.argmax(1) != y).mean(), ["shape ()", "one loss each"]),
        (lambda out, y: 2.0 * (out.argmax(1) != y), ["from 0 to 2", "[0, 1]"]),
        (lambda out, y: np.where(out.argmax(1) == y, 0.0, np.nan), ["finite"]),
        ("zero-one", ["'zero-one'", "zero_one, agreement"]),
    ],
)
def test_invalid_risks_are_refused(risk: Any, facts: list[str]) -> None:
    with pytest.raises(dc.InvalidRequest) as caught:
        certify(risk=risk)
    assert all(fact in str(caught.value) for fact in facts)


def test_groups_are_the_units_of_independence() -> None:
    groups = np.arange(len(Y)) // 4
    found = certify(held_out=(X, Y, groups))
    assert found.n == 250 and "groups" in found.statement and found.counts["examples"] == len(Y)
    assert found.lines[0].upper > certify().lines[0].upper
    words = np.array([f"speaker {g}" for g in groups])
    assert certify(held_out={"x": X, "y": Y, "groups": words}).lines == found.lines


def test_a_later_look_is_certified_at_its_share_of_delta() -> None:
    first, third, only = certify(look=1), certify(look=3), certify()
    assert first.delta == pytest.approx(0.05 * 6 / math.pi**2) and third.delta == pytest.approx(0.05 * 6 / (math.pi**2 * 9))
    assert only.lines[0].upper < first.lines[0].upper < third.lines[0].upper
    assert first.valid_as == "look 1" and third.valid_as == "look 3"
    with pytest.raises(dc.InvalidRequest, match="look 0 is impossible"):
        certify(look=0)


def test_a_promise_holds_or_nothing_is_certified() -> None:
    kept = certify(promise=0.05)
    assert kept.kept and kept.promise == 0.05 and kept.lines[0].upper <= 0.05
    with pytest.raises(dc.NotCertified) as caught:
        dc.certify(broken_file(), reference=network(), held_out=HELD_OUT, promise=0.05)
    facts = ("risk increase", "1,000 held-out examples", "0.05 was promised", "compress less")
    assert all(fact in str(caught.value) for fact in facts)
    assert broken_file().certificate is None and not broken_file().sealed


# ---------------------------------------------------------------- held-out data
def test_examples_that_compression_saw_are_dropped_or_refused() -> None:
    few = np.concatenate([X, CALIBRATION[:10]])
    found = certify(held_out=few)
    assert found.n == len(X) and found.context["dropped_as_seen"] == list(range(1000, 1010))
    for seen, total in ((11, 1011), (96, 1096)):
        with pytest.raises(dc.InvalidRequest, match=f"{seen} of {total} held-out examples equal calibration examples"):
            certify(held_out=np.concatenate([X, CALIBRATION[:seen]]))
    held, dropped = without_seen(dc.HeldOut({"x": X}, Y), tiny.file().seen)
    assert held.inputs["x"] is X and dropped == ()


def test_equal_examples_count_once() -> None:
    """Ten examples given sixty times are ten examples."""
    ten, sixty = certify(held_out=(X[:10], Y[:10])), certify(held_out=(np.tile(X[:10], (60, 1, 1, 1)), np.tile(Y[:10], 60)))
    assert sixty.n == sixty.counts["examples"] == 10 and sixty.lines == ten.lines and sixty.statement == ten.statement
    assert sixty.context["dropped_as_repeated"] == list(range(10, 600)) and ten.context["dropped_as_repeated"] == []
    (line,) = [text for text in sixty.assumptions if "equal" in text]
    assert "590 held-out examples that equal an earlier one were dropped, 10 are left" in line and "label" not in line
    assert not [text for text in ten.assumptions if "equal" in text]
    assert certify(held_out=np.tile(X[:10], (60, 1, 1, 1))).n == 10


def test_a_copy_in_another_group_is_not_a_new_example() -> None:
    x, y = np.concatenate([X[:40], X[:40], X[40:44]]), np.concatenate([Y[:40], Y[:40], Y[40:44]])
    groups = np.repeat(["a", "b", "c", "d"], [20, 20, 40, 4])  # c repeats a and b
    found = certify(held_out=(x, y, groups))
    assert found.n == 3 and found.counts["examples"] == 44
    assert found.lines == certify(held_out=(X[:44], Y[:44], np.repeat(["a", "b", "d"], [20, 20, 4]))).lines


def test_copies_with_other_labels_keep_the_first_and_are_reported() -> None:
    x, y = np.concatenate([X, X[:5]]), np.concatenate([Y, Y[:2], (Y[2:5] + 1) % 4])
    found = certify(held_out=(x, y))
    assert found.lines == certify().lines
    assert any("5 held-out examples" in line and "3 of them had another label" in line for line in found.assumptions)
    held, rows, relabelled = without_repeats(dc.HeldOut({"x": x}, np.stack([y, y], axis=1)))
    assert len(held) == len(X) and rows == (1000, 1001, 1002, 1003, 1004) and relabelled == 3


def test_too_few_distinct_examples_are_refused() -> None:
    many = dc.HeldOut({"x": np.tile(X[:10], (60, 1, 1, 1))}, np.tile(Y[:10], 60))
    for held in (many, replace(many, groups=np.arange(600))):
        with pytest.raises(dc.InvalidRequest, match=r"10 held-out (examples|groups) \(590 rows equal an earlier one"):
            refuse_too_few(held, Promise(risk_increase=0.05))
    with pytest.raises(dc.InvalidRequest, match="10 held-out examples"):
        certify(held_out=(many.inputs["x"], many.labels), promise=0.05)


def test_a_seen_example_and_its_copies_are_counted_in_the_data_as_given() -> None:
    x, y = np.concatenate([CALIBRATION[:2], X, X[:3]]), np.concatenate([[0, 0], Y, Y[:3]])
    found = certify(held_out=(x, y))
    assert found.context["dropped_as_seen"] == [0, 1] and found.context["dropped_as_repeated"] == [1002, 1003, 1004]
    assert found.lines == certify().lines


# ---------------------------------------------------------------- the reference
def test_another_reference_is_refused_by_its_digest() -> None:
    other = copy.deepcopy(network())
    other.head.weight.neg_()
    digest = open_model(other, {"x": X[:2]}).state_digest
    with pytest.raises(dc.InvalidRequest) as caught:
        dc.certify(tiny.file(), reference=other, held_out=HELD_OUT)
    assert all(fact in str(caught.value) for fact in (digest[:12], adapter().state_digest[:12], "reference"))
    assert digest[:13] not in str(caught.value) and "\n" not in str(caught.value)
    shifted = copy.deepcopy(network())
    shifted.norm1.running_mean += 1.0  # the same weights with other statistics of a BatchNorm
    with pytest.raises(dc.InvalidRequest, match="reference"):
        dc.certify(tiny.file(), reference=shifted, held_out=HELD_OUT)
    unknown = replace(tiny.file(), plan=replace(tiny.plan(), digest=""))  # a file without the digest of its model
    assert dc.certify(unknown, reference=other, held_out=(X[:20], Y[:20])).certificate is not None


# ---------------------------------------------------------------- few examples
def test_a_vacuous_certificate_says_so() -> None:
    found = dc.certify(broken_file(), reference=network(), held_out=X[:1]).certificate
    assert found is not None and is_vacuous(found) and "at most 1.0000; the bound is vacuous" in found.statement
    assert not is_vacuous(certify()) and "vacuous" not in certify().statement


def test_a_refusal_distinguishes_groups_from_examples() -> None:
    with pytest.raises(dc.NotCertified, match="on 1,000 held-out examples in 500 groups and"):
        dc.certify(broken_file(), reference=network(), held_out=(X, Y, np.arange(1000) // 2), promise=0.05)


@pytest.mark.parametrize("risk", ["zero_one", "agreement"])
@pytest.mark.parametrize("grouped", [False, True])
def test_a_refusal_for_too_few_examples_states_the_number_needed(risk: str, grouped: bool) -> None:
    def asked(n: int) -> dc.Certificate:
        groups = (np.arange(n),) if grouped else ()
        return certify(held_out=(X[:n], Y[:n], *groups), promise=0.05, risk=risk)

    with pytest.raises(dc.InvalidRequest) as caught:
        asked(20)
    needed = int(str(caught.value).split("at least ")[1].split()[0])
    assert f"20 held-out {'groups' if grouped else 'examples'} can't promise" in str(caught.value)
    with pytest.raises(dc.InvalidRequest, match=f"at least {needed} are needed"):
        asked(needed - 1)
    if risk == "zero_one" and not grouped:
        with pytest.raises(dc.NotCertified):  # enough examples, but one difference is too many
            dc.certify(broken_file(), reference=network(), held_out=(X[:needed], Y[:needed]), promise=0.05)


@pytest.mark.parametrize(
    ("asked", "facts"),
    [
        ({"held_out": (X, Y[:3])}, ["labels have shape (3,)", "1000 examples"]),
        ({"held_out": (X, Y + 0.5)}, ["float64", "class indices"]),
        ({"held_out": (X, Y + 1)}, ["from 1 to 4", "classes 0 to 3"]),
        ({"held_out": (X, np.eye(4)[Y])}, ["(1000, 4)", "class indices"]),
        ({"held_out": (X[:, :2], Y)}, ["'stem'", "3 channels"]),
        ({"held_out": []}, ["no examples"]),
        ({"held_out": X, "risk": halved}, ["no labels", "'agreement'"]),
        ({"delta": 0}, ["delta is 0", "between 0 and 1"]),
        ({"delta": 0, "promise": 0.05}, ["delta is 0", "between 0 and 1"]),
        ({"delta": 1.5}, ["delta is 1.5", "between 0 and 1"]),
        ({"promise": math.nan}, ["nan"]),
    ],
)
def test_bad_requests_are_refused_with_a_sentence(asked: dict[str, Any], facts: list[str]) -> None:
    with pytest.raises(dc.InvalidRequest) as caught:
        certify(**asked)
    assert all(fact in str(caught.value) for fact in facts) and "\n" not in str(caught.value)


def test_labels_are_checked_before_any_loss() -> None:
    """The refusal comes before the compression begins."""
    with pytest.raises(dc.InvalidRequest, match="classes 0 to 3"):
        trial(adapter(), dc.HeldOut({"x": X}, Y + 1), frozenset(), CertificateRequest(Promise(), "zero_one"))


# ---------------------------------------------------------------- a path of plans
def walk(files: list[dc.OnnxFile], promise: float = 0.05) -> tuple[Any, list[int]]:
    """Run `boldest` over files that are already built; also returns the plans that it asked for."""
    plans = [replace(file.plan, distortion=float(i)) for i, file in enumerate(files)]
    built: list[int] = []

    def build(plan: dc.Plan) -> dc.OnnxFile:
        built.append(int(plan.distortion))
        return files[built[-1]]

    try:
        return boldest(plans, build, adapter(), held(promise)), built
    except dc.NotCertified as error:
        return error, built


def held(promise: float) -> Trial:
    return trial(adapter(), dc.HeldOut({"x": X}, Y), frozenset(), CertificateRequest(Promise(risk_increase=promise), "zero_one"))


def test_the_walk_stops_at_the_first_plan_that_fails() -> None:
    good, bad = tiny.file(), broken_file()
    found, built = walk([good, good, bad, good])
    assert built == [0, 1, 2] and found.body == good.body
    certificate = found.certificate
    assert certificate.kept and certificate.selection["plans"] == 4 and certificate.lines[0].upper == 0.05
    plans = [replace(file.plan, distortion=float(i)) for i, file in enumerate([good, good, bad, good])]
    texts = [plan_to_toml(plan) for plan in plans]
    assert certificate.selection["path"] == path_digest(texts, limit=0.05, delta=0.05)
    assert dc.verify(found, held_out=HELD_OUT).counts == certificate.counts


def test_all_plans_may_pass_and_the_first_may_fail() -> None:
    good, bad = tiny.file(), broken_file()
    found, built = walk([good, good])
    assert built == [0, 1] and found.certificate.kept
    refused, built = walk([bad, good])
    assert built == [0] and isinstance(refused, dc.NotCertified)
    assert "already the most cautious plan" in str(refused) and "0.05 was promised" in str(refused)


# ---------------------------------------------------------------- several outputs, and risks with options
class TwoHeads(nn.Module):
    """Boxes `[n, 4, 4]` and scores `[n, 4]` of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 16, 3, stride=2), nn.ReLU(), nn.Flatten())
        self.boxes, self.scores = nn.Linear(144, 16), nn.Linear(144, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.body(x)
        low, size = self.boxes(features).reshape(-1, 4, 2, 2).unbind(2)
        return torch.cat([low, low + 1 + size.abs()], -1), torch.sigmoid(4 * self.scores(features))


@cache
def two_heads() -> tuple[TwoHeads, dc.OnnxFile, np.ndarray]:
    """The network, its file, and labels that its own detections keep on all examples but every fifth."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = TwoHeads().eval()
    with torch.no_grad():
        boxes, scores = (part.numpy() for part in model(torch.from_numpy(X)))
    classes = np.where(scores >= 0.5, 0.0, -1.0)
    classes[::5] = -1
    file = dc.compress(model, "edge-int8", calibration=CALIBRATION)
    return model, file, np.concatenate([boxes, classes[..., None]], 2)


def certified(risk: Any, labels: np.ndarray | None = None, **asked: Any) -> dc.OnnxFile:
    model, file, own = two_heads()
    return dc.certify(file, reference=model, held_out=(X, own if labels is None else labels), risk=risk, **asked)


def heads_ran() -> tuple[np.ndarray, ...]:
    file = two_heads()[1]
    return deployment.Session(file.body, file.target).run({"x": X})


def test_detection_reads_both_outputs_and_is_verified() -> None:
    boxes, scores = heads_ran()
    expected = Detection(iou=0.7)({"a": boxes, "b": scores}, two_heads()[2])
    file = certified(Detection(iou=0.7))
    found = certified("detection:iou=0.7").certificate
    assert found is not None and found == file.certificate
    assert found.risk == "detection:score=0.5,iou=0.7" and "detection error" in found.statement
    assert found.lines[1].point == pytest.approx(expected.mean(), abs=1 / UNITS) and found.lines[1].upper > expected.mean() > 0.1
    verified = dc.verify(file, held_out=(X, two_heads()[2]))
    assert verified == found and "betting" in found.lines[0].method
    grouped = dc.certify(
        file, reference=two_heads()[0], held_out=(X, two_heads()[2], np.arange(1000) // 2), risk=Detection(iou=0.7)
    )
    assert grouped.certificate is not None and grouped.certificate.n == 500


def test_another_processor_recomputes_a_bounded_risk(monkeypatch: pytest.MonkeyPatch) -> None:
    class Elsewhere(deployment.Session):
        def run(self, inputs: Any) -> tuple[np.ndarray, ...]:
            boxes, scores = super().run(inputs)
            return boxes, np.concatenate([np.zeros_like(scores[:3]), scores[3:]])

    file = certified("detection")
    assert file.certificate is not None
    monkeypatch.setattr(deployment, "Session", Elsewhere)
    found = dc.verify(file, held_out=(X, two_heads()[2]))
    boxes, scores = heads_ran()
    expected = Detection()({"a": boxes, "b": scores}, two_heads()[2])
    assert 1 <= found.context["examples_that_differ"] <= 3
    assert found.lines[1].point == pytest.approx(expected.mean(), abs=1 / UNITS)


def test_a_users_risk_says_whether_it_reads_all_outputs() -> None:
    def likely(outputs: Any, labels: np.ndarray) -> np.ndarray:
        boxes, scores = outputs.values()
        assert boxes.shape == (1000, 4, 4)
        return scores.mean(axis=1)

    def wide(outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return np.clip(outputs[:, 0, 2] - outputs[:, 0, 0], 0, 1)

    likely.reads_all_outputs = True  # type: ignore[attr-defined]
    scores = heads_ran()[1]
    for risk, expected in ((likely, scores.mean()), (wide, 1.0)):
        found = certified(risk).certificate
        assert found is not None and found.risk == risk.__name__
        assert found.lines[1].point == pytest.approx(expected, abs=1e-4)


def test_images_without_objects_and_repeated_images() -> None:
    model, file, _ = two_heads()
    held_out = (np.concatenate([X[:50], X[:1]]), np.zeros((51, 0, 5), np.float32))
    found = dc.certify(file, reference=model, held_out=held_out, risk="detection").certificate
    assert found is not None and found.n == 50 and "equal an earlier one" in "".join(found.assumptions)


@pytest.mark.parametrize(
    ("asked", "facts"),
    [
        ({"risk": "detection", "labels": Y}, ["labels have shape (1000,)", "[1000, m, 5]"]),
        ({"risk": "detection", "labels": np.tile([0.0, 0, 1, 1, 1], (1000, 1, 1))}, ["class 1", "classes 0 to 0"]),
        ({"risk": "bounded_error:scale=1", "labels": Y}, ["(1000, 4, 4)", "same shape"]),
        ({"risk": "bounded_error"}, ["bounded_error:scale=0.5"]),
        ({"risk": "detektion"}, ["unknown risk 'detektion'"]),
        ({"risk": Detection}, ["the risk is Detection"]),
        ({"risk": 3}, ["the risk is int"]),
    ],
)
def test_labels_and_options_are_checked_before_any_file_is_tested(
    asked: dict[str, Any], facts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    two_heads()

    def losses(*_: Any) -> None:
        raise AssertionError("a loss was computed")

    monkeypatch.setattr(Trial, "losses", losses)
    with pytest.raises(dc.InvalidRequest) as caught:
        certified(**asked)
    assert all(fact in str(caught.value) for fact in facts) and "\n" not in str(caught.value)


def test_labels_of_several_widths_are_refused() -> None:
    model, file, labels = two_heads()
    batches = [(X[:20], labels[:20]), (X[20:40], labels[20:40, :2])]
    with pytest.raises(dc.InvalidRequest, match="pad them"):
        dc.certify(file, reference=model, held_out=batches, risk="detection")
