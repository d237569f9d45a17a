"""`dyncompress probe`: a trajectory file that `--trajectory` takes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dyncompress import cli
from dyncompress.recording import load_trajectory

NET = """
import torch
from torch import nn


def network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4)).eval()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    draw = np.random.default_rng(0)
    x = draw.random((96, 1, 8, 8), dtype=np.float32)
    np.savez(tmp_path / "data.npz", x=x, y=draw.integers(0, 4, 96))
    np.savez(tmp_path / "bare.npz", x=x)
    (tmp_path / "net.py").write_text(NET)
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], folder: Path, *words: object, data: str = "data.npz") -> tuple[int, str, str]:
    short = ("--calibration", folder / data, "--steps", 100, "--batch", 16, "--quiet")
    code = cli.main(["probe", f"{folder / 'net.py'}:network", *(str(word) for word in (*short, *words))])
    out, err = capsys.readouterr()
    return code, out, err


def test_the_file_is_the_models(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder / "new" / "run.npz"
    code, text, _ = run(capsys, folder, "--out", out)
    assert code == 0 and "16 records of 2 layers" in text and "not the original training" in text
    words = [f"{folder / 'net.py'}:network", "--recipe", "trajectory", "--trajectory", out, "--calibration", folder / "data.npz"]
    assert cli.main(["measure", *map(str, words), "--quiet", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert any("not the original training" in note for note in result["notes"])
    assert result["estimates"]["fluctuation_scale"]["0"]["value"] > 0


def test_labels_are_those_of_the_data(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, text, _ = run(capsys, folder, "--labels", "--rate", 0.001, "--seed", 3, "--json", "--out", folder / "run.npz")
    assert code == 0 and "the labels given" in json.loads(text)["notes"][0]
    trajectory = load_trajectory(folder / "run.npz")
    assert (trajectory.seed, trajectory.learning_rate, trajectory.batch_size) == (3, 0.001, 16)


def test_what_cannot_be_done_is_one_sentence(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, message = run(capsys, folder, "--labels", "--out", folder / "run.npz", data="bare.npz")
    assert code == 2 and "hold no y" in message
    code, _, message = run(capsys, folder, "--out", folder)
    assert code == 2 and "it is a directory" in message
    assert not list(folder.glob("run*"))
