"""The front page works as written: its Python block, its next step, and its shell lines, on a small model."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import dyncompress as dc
from dyncompress import cli
from dyncompress.cli.arguments import parser
from tests import tiny

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
NET = "import torch\nfrom tests import tiny\n\n\ndef build():\n    return tiny.network()\n"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands() -> list[list[str]]:
    """The shell lines that begin with the command, continued lines joined."""
    lines = [line for block in blocks("bash") for line in block.replace("\\\n", " ").splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith("dyncompress ")]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder with what the lines name."""
    (tmp_path / "net.py").write_text(NET)
    np.savez(tmp_path / "calibration.npz", x=tiny.CALIBRATION)
    np.savez(tmp_path / "held_out.npz", x=tiny.HELD_OUT[0], y=tiny.HELD_OUT[1])
    np.savez(tmp_path / "one_input.npz", x=tiny.CALIBRATION[:1])
    model = tiny.network().requires_grad_(True)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.0)  # the state of a step that changes nothing
    nn.functional.cross_entropy(model(torch.from_numpy(tiny.CALIBRATION)), torch.zeros(len(tiny.CALIBRATION)).long()).backward()
    optimizer.step()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "last.pt")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_first_example_runs_and_its_file_verifies(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = blocks("python")[0]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = tiny.Tiny(width=16).eval()
    calibration = tiny.CALIBRATION
    names = {"model": model, "batches": [calibration[:48], calibration[48:]], "x": tiny.HELD_OUT[0], "y": tiny.HELD_OUT[1]}
    exec(code, names)
    file: dc.OnnxFile = names["file"]
    assert "With confidence 95 %" in capsys.readouterr().out
    assert file.certificate is not None and dc.verify(file).kept and isinstance(names["small"].module, nn.Module)
    (command,) = re.findall(r"`dyncompress (verify small\.onnx)`", code)
    assert cli.main(command.split()) == 0
    assert "small.onnx is the file that was certified" in capsys.readouterr().out


def test_the_shell_lines_run_as_written(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = commands()
    assert [line[0] for line in lines] == ["compress", "verify", "bench", "pareto", "compress", "compare"]
    for line in lines:
        assert cli.main(line) == 0, (line, capsys.readouterr().err)
    told = {path.name for path in (folder / "out").iterdir()}
    assert told == {
        *("model.onnx", "plan.toml", "profile.json", "certificate.json", "report.html", "model.float32.onnx", "pareto.html"),
    }
    assert all(f"`{name}`" in README for name in told - {"pareto.html"})
    assert (folder / "small" / "model.onnx").is_file()


def test_every_command_is_named() -> None:
    known = next(action for action in parser()._actions if action.dest == "command").choices
    assert known is not None
    missing = [name for name in known if not re.search(rf"(`|dyncompress |/){name}\b", README)]
    assert missing == []
