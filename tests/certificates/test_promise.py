"""From losses to a certificate and back: lines, evidence, JSON, and errors."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from dyncompress.certificates.clopper_pearson import upper_limit
from dyncompress.certificates.evidence import UNITS, pack, unpack
from dyncompress.certificates.paired import paired_upper
from dyncompress.certificates.promise import (
    Circumstances,
    Promise,
    certificate_from_losses,
    minimum_examples,
    packed_losses,
    recompute,
    upper_increase,
)
from dyncompress.certificates.stored import from_json, to_json
from dyncompress.certificates.wording import VACUOUS, is_vacuous, sample, statement
from dyncompress.errors import Altered, InvalidRequest
from dyncompress.types import Certificate

CIRCUMSTANCES = Circumstances(
    assumptions=("Faces only.",),
    selection={"rule": "fixed sequence", "uppers": [0.01], "plans": 1},
    environment={"runtime": "1.2"},
    digests={"file": "ab"},
    context={"occam": {"before": 1.0, "after": 0.7}},
)


def losses(n: int, worse: int, better: int, both: int) -> tuple[np.ndarray, np.ndarray]:
    kinds = np.array([[0, 1], [1, 0], [1, 1], [0, 0]])
    table = np.random.default_rng(0).permutation(np.repeat(kinds, [worse, better, both, n - worse - better - both], axis=0))
    return table[:, 0], table[:, 1]


def certificate(kind: str) -> Certificate:
    rng = np.random.default_rng(1)
    original, file = losses(300, 6, 4, 20)
    if kind == "labels":
        return certificate_from_losses(original, file, Promise(risk_increase=0.05), circumstances=CIRCUMSTANCES)
    if kind == "agreement":
        return certificate_from_losses(np.zeros(300), np.abs(file - original), Promise("agreement", 0.1, 0.08))
    if kind == "groups":
        return certificate_from_losses(original, file, Promise(), groups=np.repeat(np.arange(60), 5).astype(str))
    real = rng.beta(1, 9, 300)
    return certificate_from_losses(real, np.clip(real + rng.normal(0, 0.02, 300), 0, 1), Promise("brier", 0.05, 0.2))


KINDS = ("labels", "agreement", "groups", "own risk")


@pytest.mark.parametrize("kind", KINDS)
def test_shares_add_up_to_delta(kind):
    result = certificate(kind)
    assert sum(line.delta for line in result.lines) == pytest.approx(result.delta)
    assert all(line.lower <= line.point <= line.upper for line in result.lines)


def test_lines_are_the_bounds_of_the_counts():
    result = certificate("labels")
    assert result.counts == {"examples": 300, "worse": 6, "better": 4, "original_errors": 24, "file_errors": 26}
    assert [line.quantity for line in result.lines] == ["risk increase", "risk of the file"]
    assert result.lines[0].upper == paired_upper(6, 4, 300, 0.8 * 0.05)
    assert result.lines[1].upper == upper_limit(26, 300, 0.2 * 0.05)
    assert result.n == 300
    assert "Faces only." in result.assumptions


def test_without_labels_disagreement_takes_all_of_delta():
    result = certificate("agreement")
    assert [line.quantity for line in result.lines] == ["disagreement with the original"]
    assert result.lines[0].upper == upper_limit(10, 300, 0.1)
    assert "whatever the labels" in result.statement


def test_the_promise_is_kept_where_the_bound_is_below_it():
    original, file = losses(300, 6, 4, 20)
    upper = upper_increase(original, file, Promise())
    for limit, kept in ((upper, True), (upper - 1e-6, False), (None, True)):
        assert certificate_from_losses(original, file, Promise(risk_increase=limit)).kept is kept


def test_a_chosen_plan_states_the_limit_it_was_tested_for():
    """Its own smaller bound isn't valid, because it was chosen among several."""
    original, file = losses(300, 6, 4, 20)
    circumstances_of_path = Circumstances(selection={"plans": 4})
    result = certificate_from_losses(original, file, Promise(risk_increase=0.06), circumstances=circumstances_of_path)
    assert result.kept
    assert result.lines[0].upper == 0.06 > upper_increase(original, file, Promise(risk_increase=0.06))
    assert result.lines[1].upper == upper_limit(26, 300, 0.2 * 0.05 / 4)
    assert sum(line.delta for line in result.lines) == pytest.approx(0.05)
    assert recompute(result) == result.lines
    assert not certificate_from_losses(original, file, Promise(risk_increase=0.01), circumstances=circumstances_of_path).kept
    with pytest.raises(Altered):
        recompute(dataclasses.replace(result, selection={}))
    for selection, limit in (({"plans": 4}, None), ({"rule": "fixed sequence"}, 0.06), ({"plans": 0}, 0.06)):
        with pytest.raises(InvalidRequest, match="plans"):
            certificate_from_losses(
                original, file, Promise(risk_increase=limit), circumstances=Circumstances(selection=selection)
            )


def test_a_statement_never_says_less_than_its_bound():
    result = certificate("labels")
    said = float(result.statement.rstrip(".").split()[-1])
    assert result.lines[0].upper <= said < result.lines[0].upper + 1e-4
    assert "95 %" in result.statement


def test_groups_are_the_units_of_independence():
    result = certificate("groups")
    assert result.n == 60
    assert "60 independent groups" in result.statement
    assert "betting" in result.lines[0].method
    original, file = losses(300, 6, 4, 20)
    means = (file - original).reshape(60, 5).mean(axis=1)
    assert result.lines[0].point == pytest.approx(means.mean())


def test_group_names_and_their_order_in_memory_mean_nothing():
    original, file = losses(120, 6, 4, 20)
    groups = np.repeat(np.arange(30), 4)
    one = certificate_from_losses(original, file, Promise(), groups=groups)
    other = certificate_from_losses(original, file, Promise(), groups=np.array([f"speaker {99 - g}" for g in groups]))
    assert one.lines == other.lines


@pytest.mark.parametrize("kind", KINDS)
def test_evidence_alone_gives_the_lines_again(kind):
    result = certificate(kind)
    assert recompute(result) == result.lines


@pytest.mark.parametrize("kind", KINDS)
def test_json_gives_the_certificate_back(kind):
    result = certificate(kind)
    again = from_json(to_json(result))
    assert again == result
    assert recompute(again) == result.lines


@pytest.mark.parametrize("kind", KINDS)
def test_a_flattered_certificate_is_found_out(kind):
    result = certificate(kind)
    better = dataclasses.replace(result.lines[0], upper=result.lines[0].upper - 0.001)
    changed = [
        dataclasses.replace(result, lines=(better, *result.lines[1:])),
        dataclasses.replace(result, delta=result.delta / 2),
        dataclasses.replace(result, n=result.n + 1),
        dataclasses.replace(result, kept=not result.kept),
        dataclasses.replace(result, evidence={**result.evidence, "file": result.evidence["original"] + "00"}),
        dataclasses.replace(result, evidence={}),
    ]
    for one in changed:
        with pytest.raises(Altered):
            recompute(one)


def test_real_losses_are_rounded_to_the_safe_side():
    rng = np.random.default_rng(2)
    original, file = rng.random(1000), rng.random(1000)
    original[:2], file[:2] = (0, 1), (1, 0)
    packed_original, packed_file, groups = unpack(pack(original, file, None, binary=False))
    assert groups is None
    assert np.all(packed_original <= original)
    assert np.all(packed_file >= file)
    assert np.abs(np.concatenate([packed_original - original, packed_file - file])).max() < 1.001 / UNITS
    np.testing.assert_array_equal(packed_original[:2], [0, 1])


def test_packing_twice_changes_nothing():
    first = packed_losses(certificate("own risk"))
    second = unpack(pack(first[0], first[1], None, binary=False))
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])


def test_evidence_of_single_bits_is_small():
    result = certificate("labels")
    assert len(result.evidence["original"]) == 2 * -(-300 // 8)


@pytest.mark.parametrize(("limit", "delta", "least"), [(0.01, 0.05, 299), (0.05, 0.05, 59), (0.1, 0.1, 22)])
def test_least_examples_without_an_error(limit, delta, least):
    assert minimum_examples(Promise("agreement", delta, limit)) == least


@pytest.mark.parametrize("risk", ["agreement", "zero_one", "brier"])
def test_the_least_number_keeps_the_promise_and_one_less_does_not(risk):
    promise = Promise(risk, 0.05, 0.04)
    least = minimum_examples(promise)
    for n, kept in ((least, True), (least - 1, False)):
        assert certificate_from_losses(np.zeros(n), np.zeros(n), promise).kept is kept
    with pytest.raises(InvalidRequest, match="above 0"):
        minimum_examples(Promise(risk, 0.05, 0.0))


@pytest.mark.parametrize(
    ("original", "file", "promise", "groups"),
    [
        (np.zeros(3), np.zeros(4), Promise(), None),
        (np.zeros(3), np.zeros(3), Promise(), np.zeros(4)),
        (np.zeros(3), np.full(3, 0.5), Promise(), None),
        (np.zeros(3), np.full(3, 1.5), Promise("brier"), None),
        (np.ones(3), np.ones(3), Promise("agreement"), None),
        (np.zeros(3), np.zeros(3), Promise(delta=0.0), None),
        (np.zeros(3), np.zeros(3), Promise(risk_increase=float("nan")), None),
        (np.zeros(3), np.zeros(3), Promise("brier", method="paired_increase"), None),
        (np.zeros(3), np.zeros(3), Promise(method="clopper_pearson"), None),
        (np.zeros(3), np.zeros(3), Promise("agreement", method="paired_increase"), None),
    ],
)
def test_what_can_not_be_certified_is_refused(original, file, promise, groups):
    with pytest.raises(InvalidRequest):
        certificate_from_losses(original, file, promise, groups=groups)


@pytest.mark.parametrize("method", ["betting", "hoeffding_bentkus"])
def test_another_bound_may_be_fixed_before_the_losses(method):
    original, file = losses(300, 6, 4, 20)
    result = certificate_from_losses(original, file, Promise(method=method))
    assert result.lines[0].upper > upper_increase(original, file, Promise())
    assert recompute(result) == result.lines


def test_cut_foreign_and_twisted_json_is_told_apart():
    text = to_json(certificate("labels"))
    table = json.loads(text)
    with pytest.raises(InvalidRequest, match="whole JSON"):
        from_json(text[: len(text) // 2])
    for foreign in ("[]", '{"a": 1}', "3"):
        with pytest.raises(InvalidRequest, match="no certificate"):
            from_json(foreign)
    without = {key: value for key, value in table.items() if key != "kept"}
    with pytest.raises(InvalidRequest, match="kept"):
        from_json(json.dumps(without))
    for key, value in (("delta", "small"), ("kept", 1), ("evidence", []), ("lines", {}), ("promise", "x"), ("n", 2.5)):
        with pytest.raises(InvalidRequest, match=key):
            from_json(json.dumps(table | {key: value}))
    with pytest.raises(InvalidRequest, match="line"):
        from_json(json.dumps(table | {"lines": [{"quantity": "risk increase"}]}))


def test_a_key_that_stands_twice_is_refused_wherever_it_stands():
    """JSON readers differ in which of the two values they use."""
    text = to_json(certificate("labels"))
    for once, twice, key in (
        ('"kept": true', '"kept": false,\n "kept": true', "kept"),
        ('"kept": true', '"kept": true,\n "kept": true', "kept"),
        ('"worse": 6', '"worse": 0, "worse": 6', "worse"),
        ('"quantity": "risk increase"', '"quantity": "risk increase", "upper": 0.0', "upper"),
    ):
        assert once in text
        with pytest.raises(InvalidRequest, match=f"the certificate holds the key '{key}' twice"):
            from_json(text.replace(once, twice, 1))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_json_lacks_are_refused(number):
    text = to_json(certificate("labels"))
    for place in ('"delta": 0.05', '"after": 0.7'):  # a field, and a number in the context
        assert place in text
        with pytest.raises(InvalidRequest, match=f"holds the number {number}, and only finite numbers"):
            from_json(text.replace(place, f"{place.split(':')[0]}: {number}", 1))


def test_json_that_is_nested_without_end_is_refused():
    with pytest.raises(InvalidRequest, match="whole JSON"):
        from_json("[" * 100_000)


@pytest.mark.parametrize(("risk", "n", "worse"), [("zero_one", 1, 1), ("zero_one", 20, 20), ("agreement", 1, 1), ("brier", 3, 3)])
def test_a_vacuous_bound_is_said_in_words(risk, n, worse):
    file = np.repeat([1.0, 0.0], [worse, n - worse])
    result = certificate_from_losses(np.zeros(n), file, Promise(risk))
    assert result.lines[0].upper > 1 - 1e-4 and is_vacuous(result)
    assert f"at most 1.0000; {VACUOUS}." in result.statement and "whatever the labels" not in result.statement


def test_a_limit_of_one_is_vacuous_and_a_bound_that_prints_below_one_is_not():
    original, file = losses(300, 6, 4, 20)
    circumstances_of_path = Circumstances(selection={"plans": 4})
    assert is_vacuous(certificate_from_losses(original, file, Promise(risk_increase=1.0), circumstances=circumstances_of_path))
    for upper, vacuous in ((0.9999, False), (0.99991, True), (1.0, True), (1.5, True), (-0.1, False)):
        result = certificate("labels")
        line = dataclasses.replace(result.lines[0], upper=upper)
        assert is_vacuous(dataclasses.replace(result, lines=(line, *result.lines[1:]))) is vacuous
        assert (VACUOUS in statement("zero_one", 0.05, line, 300, "example")) is vacuous
        assert (VACUOUS in statement("agreement", 0.05, line, 300, "example")) is vacuous
    assert not any(is_vacuous(certificate(kind)) for kind in KINDS)


def test_a_sample_is_told_in_examples_and_groups():
    assert sample(certificate("labels")) == "300 held-out examples"
    assert sample(certificate("groups")) == "300 held-out examples in 60 groups"


def test_context_must_be_plain():
    result = dataclasses.replace(certificate("labels"), context={"x": float("nan")})
    with pytest.raises(InvalidRequest, match="finite"):
        to_json(result)
