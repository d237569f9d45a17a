"""`--risk`: a detector with two outputs and a CTC network, compressed, certified and verified from the shell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dyncompress as dc
from dyncompress import cli, deployment
from dyncompress.certificates.detection import Detection
from dyncompress.certificates.evidence import UNITS
from dyncompress.certificates.promise import packed_losses
from dyncompress.certificates.risks import written
from dyncompress.certificates.stored import from_json
from dyncompress.certificates.transcription import CharacterErrors, ExactMatch, greedy_path
from dyncompress.recipe.toml_files import load_target

NETS = """
import torch
from torch import nn


class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten())
        self.boxes, self.scores = nn.Linear(256, 6 * 4), nn.Linear(256, 6 * 3)

    def forward(self, image):
        features = 4 * self.body(image)
        low, size = self.boxes(features).reshape(-1, 6, 2, 2).unbind(2)
        boxes = torch.cat([10 * low, 10 * low + 1 + 5 * size.abs()], -1)
        return {"boxes": boxes, "scores": torch.sigmoid(8 * self.scores(features)).reshape(-1, 6, 3)}


class Transcriber(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv1d(4, 32, 3, padding=1), nn.ReLU(), nn.Conv1d(32, 5, 1))

    def forward(self, sound):
        return self.body(sound).transpose(1, 2)


def seeded(kind):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind().eval()


def detector():
    return seeded(Detector)


def transcriber():
    return seeded(Transcriber)
"""
SIZES = {"detector": (1, 8, 8), "transcriber": (4, 9)}
N = 300


def draws(kind: str, n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, *SIZES[kind])).astype(np.float32)


def truth(kind: str, outputs: list[np.ndarray]) -> np.ndarray:
    """Labels from the original's own outputs, of which every fourth example gets wrong ones."""
    if kind == "transcriber":
        labels = greedy_path(outputs[0], blank=0)
        labels[::4, 0] = 1 + labels[::4, 0] % 4
        return labels
    boxes, scores = outputs
    classes = np.where(scores.max(2) >= 0.3, scores.argmax(2), -1)
    classes[::4, 0] = (classes[::4, 0] + 1) % 3
    return np.concatenate([boxes, classes[..., None]], 2).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder with both networks and their data."""
    import torch

    folder = tmp_path_factory.mktemp("risks")
    (folder / "risk_nets.py").write_text(NETS)
    module: dict[str, Any] = {}
    exec(compile(NETS, "risk_nets.py", "exec"), module)
    for kind in SIZES:
        x = draws(kind, N, seed=2)
        with torch.no_grad():
            outputs = module[kind]()(torch.from_numpy(x))
        arrays = [part.numpy() for part in (outputs.values() if isinstance(outputs, dict) else [outputs])]
        np.savez(folder / f"{kind}.npz", x=x, y=truth(kind, arrays))
        np.savez(folder / f"{kind}_calibration.npz", x=draws(kind, 64, seed=1))
    return folder


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    """Run a command; returns its exit code, standard output and standard error."""
    code = cli.main([str(word) for word in words])
    out, err = capsys.readouterr()
    return code, out, err


def compress(kind: str, folder: Path, *more: object) -> list[object]:
    data = ("--calibration", folder / f"{kind}_calibration.npz", "--held-out", folder / f"{kind}.npz")
    return ["compress", f"{folder}/risk_nets.py:{kind}", "--recipe", "edge-int8", *data, "--quiet", *more]


CASES = [
    (
        "detector",
        "detection:iou=0.6,score=0.3",
        Detection(score=0.3, iou=0.6),
        "detection error (1 - F1 for each image, at IoU 0.6",
    ),
    ("transcriber", "exact_match", ExactMatch(), "transcription error rate (exact match)"),
    ("transcriber", "character_errors:blank=0", CharacterErrors(), "character error rate"),
]


@pytest.mark.parametrize(("kind", "text", "risk", "words"), CASES)
def test_a_risk_is_certified_and_verified(
    kind: str, text: str, risk: Any, words: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = folder / text.partition(":")[0]
    code, _, err = run(capsys, *compress(kind, folder, "--risk", text, "--out", out))
    assert code == 0, err
    certificate = from_json((out / "certificate.json").read_text())
    assert certificate.risk == written(risk)
    assert words in certificate.statement and certificate.n == N
    session = deployment.Session((out / "model.onnx").read_bytes(), load_target("onnxruntime-x86-vnni"))
    data = np.load(folder / f"{kind}.npz")
    outputs = session.run({session.input_names[0]: data["x"]})
    assert len(outputs) == {"detector": 2, "transcriber": 1}[kind]
    ours = risk(dict(zip(session.output_names, outputs, strict=True)) if kind == "detector" else outputs[0], data["y"])
    before, after, _ = packed_losses(certificate)
    np.testing.assert_allclose(after, ours, atol=1 / UNITS)
    assert 0 < before.mean() <= 0.5 and (before[1::4] == 0).mean() > 0.9  # wrong labels on every fourth example
    exact = "exact paired bound" in certificate.lines[0].method
    assert exact == risk.binary and ("betting" in certificate.lines[0].method) != exact
    for more in ((), ("--held-out", folder / f"{kind}.npz")):
        code, text_out, err = run(capsys, "verify", out, *more, "--json")
        assert code == 0, err
        assert json.loads(text_out)["certificate"]["risk"] == certificate.risk
        assert json.loads(text_out)["certificate"]["context"].get("examples_that_differ", 0) == 0


@pytest.mark.parametrize(
    ("kind", "more", "facts"),
    [
        ("detector", ["--risk", "detections"], ["certificate.risk", "did you mean 'detection'"]),
        ("detector", ["--risk", "detection:iuo=0.5"], ["'iuo'", "did you mean 'iou'"]),
        ("detector", ["--risk", "bounded_error"], ["bounded_error:scale=0.5"]),
        ("detector", ["--risk", "exact_match"], ["exact_match takes integers"]),
        ("transcriber", ["--risk", "detection"], ["detection takes [n, k, 6]"]),
        ("detector", ["--risk", "detection", "--set", "certificate.method=paired_increase"], ["paired_increase"]),
        ("detector", ["--set", "certificate.risk=detection:iou=2"], ["iou is 2"]),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(
    kind: str, more: list[str], facts: list[str], folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, out, err = run(capsys, *compress(kind, folder, *more, "--out", tmp_path / "out"))
    assert code == 2 and out == "" and err.count("\n") == 1
    assert all(fact in err for fact in facts)
    assert not (tmp_path / "out").exists()


def test_a_risk_needs_held_out_data(folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["compress", f"{folder}/risk_nets.py:detector", "--calibration", folder / "detector_calibration.npz"]
    code, _, err = run(capsys, *words, "--risk", "detection", "--out", tmp_path / "out")
    assert code == 2 and "--risk detection" in err and "--held-out" in err


def test_a_recipe_names_a_risk_and_the_option_takes_its_place(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = dc.load_recipe("edge-int8", {"certificate.risk": "bounded_error:scale=2"})
    assert recipe.certificate.risk == "bounded_error:scale=2"
    out = folder / "chosen"
    words = compress("transcriber", folder, "--set", "certificate.risk=bounded_error:scale=2", "--risk", "character_errors")
    code, _, err = run(capsys, *words, "--out", out)
    assert code == 0, err
    assert from_json((out / "certificate.json").read_text()).risk == "character_errors:blank=0"


def test_an_altered_risk_is_noticed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder / "altered"
    assert run(capsys, *compress("transcriber", folder, "--risk", "exact_match", "--out", out))[0] == 0
    assert run(capsys, "verify", out)[0] == 0
    text = (out / "certificate.json").read_text()
    (out / "certificate.json").write_text(text.replace("exact_match:blank=0", "exact_match:blank=1"))
    assert run(capsys, "verify", out)[0] == 5
