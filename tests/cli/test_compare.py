"""The command `compare`: its answer for people and for machines, and its three files, all or none."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from dyncompress import cli
from dyncompress.reports.comparison import FILES

NET = """
import torch
from torch import nn


def network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8)).eval()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A network, calibration data, and held-out data without labels."""
    generator = np.random.default_rng(0)
    (tmp_path / "net.py").write_text(NET)
    for name, n in (("calibration", 64), ("held_out", 200)):
        np.savez(tmp_path / f"{name}.npz", x=generator.normal(size=(n, 64)).astype(np.float32))
    return tmp_path


def words(folder: Path, *more: object) -> list[str]:
    return ["compare", f"{folder}/net.py:network", "--held-out", f"{folder}/held_out.npz", "--quiet", *map(str, more)]


def test_the_answer_and_the_files(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder / "out"
    assert cli.main(words(folder, "--calibration", folder / "calibration.npz", "--out", out)) == 0
    text = capsys.readouterr().out
    assert text.startswith("theory without data earns its place here: ")
    assert "exact weight errors" in text and "lamp: no plan. allocator lamp: it allocates zeros only" in text
    assert sorted(path.name for path in out.iterdir()) == sorted(FILES)
    with (out / "comparison.csv").open() as file:
        rows = {row["allocator"]: row for row in csv.DictReader(file)}
    assert float(rows["uniform"]["ratio"]) == 1 and rows["lamp"]["ratio"] == "" and "zeros only" in rows["lamp"]["reason"]
    drawing = ElementTree.parse(out / "comparison.svg").getroot()
    circles = [one for one in drawing.iter() if one.tag.endswith("circle")]
    planned = [name for name, row in rows.items() if row["ratio"]]
    assert len(circles) == len(planned)
    places = {name: float(circle.attrib["cx"]) for name, circle in zip(planned, circles, strict=True)}
    order = sorted(planned, key=lambda name: float(rows[name]["ratio"]))
    assert [places[name] for name in order] == sorted(places.values())  # further to the right, the larger the ratio
    lines = [line for line in (out / "comparison.md").read_text().splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(planned) and len({line.count("|") for line in lines}) == 1


def test_zeros_without_data_as_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words(folder, "--action", "zeros", "--sparsity", "0.5", "--json")) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["answer"] in ("yes", "no", "can't tell") and found["budget"] == {"sparsity": 0.5} and found["paths"] == {}
    rows = {row["allocator"]: row for row in found["rows"]}
    assert rows["uniform"]["ratio"]["value"] == 1 and rows["uniform"]["accuracy"] is None
    assert "calibration=batches" in rows["fisher"]["reason"] and "divergence" not in rows["fisher"]
    assert rows["uniform"]["zeros"] == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (["--sparsity", "0.5"], 2, "give budget.bytes alone"),
        (["--bytes", "10000000000"], 0, ""),  # everything fits: all plans are alike
        (["--bytes", "0.001"], 3, "raise"),
        (["--trajectory", "absent.npz"], 2, "there is no such file"),
        (["--action", "channels"], 2, "invalid choice"),
    ],
)
def test_exit_codes(folder: Path, more: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words(folder, *more, "--out", folder / "out")) == code
    assert message in capsys.readouterr().err
    assert (folder / "out").exists() == (code == 0)
