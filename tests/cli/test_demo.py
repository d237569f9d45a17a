"""The demo as a user runs it (one command, no download, a certified file), and its parts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn")

from dyncompress import cli
from dyncompress.cli import demo
from tests.running import session_of

Results = tuple[Path, dict[str, Any], str]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """The output directory, the JSON object and the standard error of `dyncompress demo`."""
    out = tmp_path_factory.mktemp("demo") / "out"
    command = [sys.executable, "-m", "dyncompress.cli", "demo", "--json", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False)
    assert done.returncode == 0, done.stderr
    return out, json.loads(done.stdout.splitlines()[-1]), done.stderr


def test_the_demo_certifies_a_much_smaller_file(results: Results) -> None:
    out, data, _ = results
    assert data["bytes"]["before"] > 5 * data["bytes"]["after"]
    assert data["bytes"]["after"] == (out / "model.onnx").stat().st_size
    certificate = data["certificate"]
    assert certificate["kept"] is True
    assert certificate["lines"][0]["upper"] <= certificate["promise"]
    assert sum(line["delta"] for line in certificate["lines"]) <= certificate["delta"] + 1e-12


def test_the_demo_reports_progress_on_standard_error(results: Results) -> None:
    assert "train on digits (16)" in results[2]
    assert "measure the layers" in results[2]


def test_the_certified_error_rate_is_that_of_the_file(results: Results) -> None:
    out, data, _ = results
    x, y = demo.digits().held_out
    session = session_of((out / "model.onnx").read_bytes())
    scores = session.run(None, {session.get_inputs()[0].name: x})[0]
    assert int((scores.argmax(1) != y).sum()) == data["certificate"]["counts"]["file_errors"]


def test_the_demos_file_verifies(results: Results, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["verify", str(results[0])]) == 0
    assert results[1]["certificate"]["statement"] in capsys.readouterr().out


def test_the_split_covers_every_digit_once() -> None:
    from sklearn.datasets import load_digits

    data = demo.digits()
    parts = np.concatenate([data.training[0], data.calibration, data.held_out[0]])[:, 0] * 16
    every = load_digits().images
    assert len(parts) == len(every)
    assert np.array_equal(np.sort(parts.reshape(-1, 64), axis=0), np.sort(every.reshape(-1, 64), axis=0))


def test_initial_weights_are_fixed_and_keep_the_global_random_state() -> None:
    before = torch.get_rng_state()
    first, second = demo.network().state_dict(), demo.network().state_dict()
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_training_learns_and_records_its_last_iterate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "EPOCHS", 2)
    monkeypatch.setattr(demo, "RECORDED_EPOCHS", 1)
    data = demo.digits()
    model, trajectory = demo.train(data)
    with torch.no_grad():
        right = model(torch.from_numpy(data.held_out[0])).argmax(1).numpy() == data.held_out[1]
    assert right.mean() > 0.8
    assert trajectory.steps.tolist() == list(range(demo.EVERY, 26, demo.EVERY))
    assert not model.training


def test_without_scikit_learn_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(demo.Unsupported, match=r"dyncompress\[demo\]"):
        demo.digits()
