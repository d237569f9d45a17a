"""What a file carries: times that do not affect results, the profile, and the files that were built during the search."""

from __future__ import annotations

from dataclasses import replace

import pytest

import dyncompress as dc
from dyncompress import deployment
from dyncompress.deployment import session
from tests import tiny


@pytest.fixture
def any_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "processor_flags", lambda: frozenset({"avx512_vnni"}))


def test_both_files_are_timed_alternately_on_this_machine(any_processor: None) -> None:
    file = dc.compress(tiny.network(), target=tiny.TARGET, calibration=tiny.CALIBRATION)
    speed = file.speed
    assert speed is not None and not speed.reason
    assert speed.before > 0 and speed.after > 0 and speed.ratio > 0
    assert 1 <= speed.rounds <= 40 and (speed.batch, speed.threads) == (1, 1)
    assert speed.processor == deployment.processor() != ""


@pytest.mark.parametrize(
    ("target", "reason"), [("generic-int8", "times are taken in onnxruntime"), ("onnxruntime-arm64", "none of asimddp")]
)
def test_a_target_that_differs_from_this_machine_is_not_timed(target: str, reason: str, any_processor: None) -> None:
    file = dc.compress(tiny.network(), target=target, calibration=tiny.CALIBRATION)
    assert file.speed is not None and reason in file.speed.reason
    assert file.speed.rounds == 0 and file.float_body == b""


def test_times_do_not_affect_results(monkeypatch: pytest.MonkeyPatch, any_processor: None) -> None:
    first = dc.compress(tiny.network(), target=tiny.TARGET, calibration=tiny.CALIBRATION)
    slow = replace(first.speed or dc.types.Speed(), after=1e3, ratio=1e-6)
    monkeypatch.setattr(deployment, "time_pair", lambda *_: slow)
    second = dc.compress(tiny.network(), target=tiny.TARGET, calibration=tiny.CALIBRATION)
    assert second.speed == slow and second.content == first.content and second.plan == first.plan


def test_a_file_that_does_not_run_here_says_so(monkeypatch: pytest.MonkeyPatch, any_processor: None) -> None:
    def refuse(*_: object) -> None:
        raise dc.Unsupported("onnxruntime can't load the file: no kernel.")

    monkeypatch.setattr(deployment, "time_pair", refuse)
    file = dc.compress(tiny.network(), target=tiny.TARGET, calibration=tiny.CALIBRATION)
    assert file.speed is not None and file.speed.reason == "onnxruntime can't load the file: no kernel"


def test_a_file_made_verb_by_verb_is_timed_when_it_is_certified(any_processor: None) -> None:
    assert tiny.file().speed is None, "export knows no original"
    file = dc.certify(tiny.file(), reference=tiny.network(), held_out=tiny.HELD_OUT)
    assert file.speed is not None and file.speed.before > 0
    again = dc.certify(file, reference=tiny.network(), held_out=tiny.HELD_OUT, look=2)
    assert again.speed is file.speed, "once is enough"


def test_every_file_that_was_built_for_a_budget_is_listed() -> None:
    profile = tiny.profile("packed")
    recipe = dc.load_recipe("packed")
    file = dc.compress(tiny.network(), recipe, target=tiny.TARGET, calibration=tiny.CALIBRATION, plan=profile)
    chosen = [one for one in file.candidates if one.chosen]
    assert len(file.candidates) > 1 and len(chosen) == 1
    assert chosen[0].bytes == len(file.packed) and chosen[0].divergence == file.parity.divergence
    assert all(one.divergence >= 0 for one in file.candidates)
    assert file.profile is profile


def test_the_path_of_plans_of_a_certificate_is_listed() -> None:
    recipe = replace(dc.load_recipe("edge-int8"), budget=dc.Budget(risk_increase=0.2), path=(0.9, 0.6, 0.5))
    file = dc.compress(tiny.network(), recipe, target=tiny.TARGET, calibration=tiny.CALIBRATION, held_out=tiny.HELD_OUT)
    assert sum(one.chosen for one in file.candidates) == 1
    assert len(file.candidates) <= file.certificate.selection["plans"]
