"""The command line: arguments, one sentence for each error, exit codes, all files or none, and a run on a small network."""

from __future__ import annotations

import contextlib
import io
import json
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dyncompress import cli
from dyncompress.cli.option_values import settings
from dyncompress.cli.sources import load_data, load_model
from dyncompress.coding.whole_files import check_writable, deliver
from dyncompress.errors import InvalidRequest, Unsupported
from dyncompress.recipe.bundled_files import recipe_files, target_files
from tests.running import session_of

Results = tuple[Path, dict[str, Any]]
FIVE = ["certificate.json", "model.onnx", "plan.toml", "profile.json", "report.html"]

NET = """
import torch
from torch import nn
from factor import FACTOR


def network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        stem = (nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU())
        body = (nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
        return nn.Sequential(*stem, *body, nn.Linear(256, 4 * FACTOR)).eval()


def number():
    return 3


def images(n=128, seed=1):
    return torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def batches():
    yield from images().split(32)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder with a network, its calibration data and its held-out data."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "net.py").write_text(NET)
    (folder / "factor.py").write_text("FACTOR = 1\n")
    module = {}
    sys.path.insert(0, str(folder))
    exec(compile(NET, "net.py", "exec"), module)
    held_out = module["images"](400, seed=2)
    labels = module["network"]()(held_out).argmax(1).numpy()
    np.savez(folder / "calibration.npz", x=module["images"]().numpy(), y=np.zeros(128))
    np.savez(folder / "held_out.npz", x=held_out.numpy(), y=labels)
    return folder


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    """Run a command; returns its exit code, standard output and standard error."""
    code = cli.main([str(word) for word in words])
    out, err = capsys.readouterr()
    return code, out, err


# ---------------------------------------------------------------- arguments
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["compres"], "invalid choice: 'compres'"),
        (["compress"], "required: MODEL, --out"),
        (["compress", "m.py:f", "--out", "o", "--recip", "x"], "unrecognized arguments: --recip x"),
        (["recipes", "show", "edge-int"], "did you mean 'edge-int8'?"),
        (["targets", "check", "no-such"], "no such target"),
        (["verify", "nowhere.onnx"], "there is no such file"),
        (["plan", "nowhere.json"], "there is no such file"),
    ],
)
def test_a_wrong_argument_ends_with_one_sentence_and_code_2(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, *words)
    assert code == 2
    assert out == ""
    assert message in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_settings_need_an_equals_sign() -> None:
    assert settings(["a.b = 1", "c=x=y"]) == {"a.b": "1", "c": "x=y"}
    with pytest.raises(InvalidRequest, match="key=value"):
        settings(["budget.bytes"])


@pytest.mark.parametrize(("command", "files"), [("recipes", recipe_files), ("targets", target_files)])
def test_everything_shipped_is_listed_and_shown(command: str, files, capsys: pytest.CaptureFixture[str]) -> None:  # type: ignore[no-untyped-def]
    names = files()
    assert names
    code, out, _ = run(capsys, command, "list", "--json")
    assert code == 0
    assert list(json.loads(out)) == list(names)
    assert all(json.loads(out).values()), "every file has a summary"
    for name, path in names.items():
        assert run(capsys, command, "show", name)[1].strip() == path.read_text().strip()


def test_every_shipped_target_passes_its_check(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "targets", "check")
    assert code == 0
    assert all(name in out for name in target_files())


# ---------------------------------------------------------------- what arguments name
def test_a_network_is_named_by_file_or_by_module(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert type(load_model(f"{folder}/net.py:network")).__name__ == "Sequential"
    assert type(load_model("net:network")).__name__ == "Sequential"
    assert len(list(load_data("net.py:batches", "calibration data"))) == 4


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("net.py", "give it as `file.py:callable`"),
        ("absent.py:network", "no file absent.py"),
        ("net.py:netwrk", "did you mean 'network'"),
        ("net.py:number", "returned a int"),
        ("no_such_package.net:network", "no module 'no_such_package'"),
    ],
)
def test_a_wrong_model_gives_one_sentence(source: str, message: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(InvalidRequest, match=message):
        load_model(source)


def test_files_without_a_network_explain_how_to_name_one(tmp_path: Path) -> None:
    weights = tmp_path / "net.pt"
    torch.save({"w": torch.ones(3)}, weights)
    for source in (weights, tmp_path / "net.safetensors"):
        with pytest.raises(Unsupported, match=r"net\.py:model"):
            load_model(str(source))
    for name in ("absent.pt2", "absent.pt", "absent.onnx"):
        with pytest.raises(InvalidRequest, match="there is no such file"):
            load_model(str(tmp_path / name))
    (tmp_path / "net.pt2").write_bytes(b"no program")
    with pytest.raises(InvalidRequest, match="is no exported program"):
        load_model(str(tmp_path / "net.pt2"))


def test_an_import_error_inside_the_users_module_is_the_users_own(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import no_such_thing_at_all\n")
    with pytest.raises(InvalidRequest, match=r"raised ModuleNotFoundError at broken.py line 1: .*no_such_thing"):
        load_model(f"{tmp_path}/broken.py:network")


def test_missing_data_give_one_sentence() -> None:
    with pytest.raises(InvalidRequest, match="no such file"):
        load_data("absent.npz", "calibration data")


# ---------------------------------------------------------------- output files
def test_files_are_written_together_without_leftovers(tmp_path: Path) -> None:
    paths = deliver(tmp_path / "a" / "b", {"one.txt": "1", "two.bin": b"2"})
    assert {path.name: path.read_bytes() for path in (tmp_path / "a" / "b").iterdir()} == {"one.txt": b"1", "two.bin": b"2"}
    assert list(paths) == ["one.txt", "two.bin"]


def test_if_one_file_cannot_be_written_none_is(tmp_path: Path) -> None:
    (tmp_path / "kept.txt").write_text("before")
    with pytest.raises(InvalidRequest, match="nothing was written"):
        deliver(tmp_path, {"kept.txt": "after", "no/such/folder.txt": "x"})
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"kept.txt": "before"}


def test_a_directory_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidRequest, match="is a file"):
        check_writable(tmp_path / "file" / "out")
    check_writable(tmp_path / "new" / "out")
    assert not (tmp_path / "new").exists()


def test_a_read_only_directory_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    monkeypatch.setattr("tempfile.TemporaryFile", refuse)  # root may write despite the permission bits
    code, _, err = run(capsys, "compress", "absent.py:network", "--calibration", "absent.npz", "--out", tmp_path / "out")
    assert code == 2
    assert "permission denied" in err


# ---------------------------------------------------------------- a whole run
@pytest.fixture(scope="module")
def results(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """The directory and the JSON object of one `compress`."""
    out = tmp_path_factory.mktemp("results") / "small"
    words = ["compress", f"{folder}/net.py:network", "--calibration", folder / "calibration.npz"]
    words += ["--held-out", folder / "held_out.npz", "--out", out, "--json", "--quiet"]
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        assert cli.main([str(word) for word in words]) == 0
    return out, json.loads(shown.getvalue())


def test_a_run_writes_its_five_files_and_reports_the_bytes(results: Results) -> None:
    out, data = results
    assert sorted(path.name for path in out.iterdir()) == FIVE
    assert data["paths"] == {name: str(out / name) for name in data["paths"]}
    assert data["bytes"]["after"] == (out / "model.onnx").stat().st_size
    assert data["bytes"]["after"] < data["bytes"]["before"]
    assert data["certificate"]["kept"] is True
    assert data["left_alone"]["weights"] == 0
    assert "<svg" in (out / "report.html").read_text()


def test_the_file_runs_with_onnxruntime_alone(results: Results, folder: Path) -> None:
    out, data = results
    session = session_of((out / "model.onnx").read_bytes())
    with np.load(folder / "held_out.npz") as held_out:
        scores = session.run(None, {session.get_inputs()[0].name: held_out["x"]})[0]
        errors = int((scores.argmax(1) != held_out["y"]).sum())
    assert errors == data["certificate"]["counts"]["file_errors"]


def test_verify_recomputes_and_detects_one_changed_byte(
    results: Results, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, data = results
    code, text, err = run(capsys, "verify", out, "--held-out", folder / "held_out.npz")
    assert code == 0, err
    assert data["certificate"]["statement"] in text
    content = bytearray((out / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "model.onnx").write_bytes(content)
    code, text, err = run(capsys, "verify", tmp_path, "--certificate", out / "certificate.json")
    assert (code, text) == (5, "")
    code, _, err = run(capsys, "verify", out, "--held-out", folder / "calibration.npz")
    assert code == 2
    assert "held-out examples (another digest)" in err


def test_a_second_budget_reuses_the_profile(
    results: Results, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, first = results
    (tmp_path / "profile.json").write_bytes((out / "profile.json").read_bytes())
    words = ["compress", f"{folder}/net.py:network", "--calibration", folder / "calibration.npz", "--json", "--out", tmp_path]
    smaller = 0.9 * first["bytes"]["after"]
    code, text, err = run(capsys, *words, "--set", f"budget.bytes={smaller:.0f}")
    assert code == 0, err
    assert "reuse the measured profile" in err
    assert "measure the layers" not in err
    assert json.loads(text.splitlines()[-1])["bytes"]["after"] <= smaller
    code, _, err = run(capsys, *words, "--set", "quantize.damping=0.02")
    assert "measure the layers" in err


def test_an_edited_plan_is_applied(results: Results, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = results
    plan = (out / "plan.toml").read_text()
    assert "weight_bits = 8" in plan
    (tmp_path / "plan.toml").write_text(plan.replace("weight_bits = 8", "weight_bits = 5", 1))
    words = [
        "compress",
        f"{folder}/net.py:network",
        "--calibration",
        folder / "calibration.npz",
        "--plan",
        tmp_path / "plan.toml",
    ]
    code, text, err = run(capsys, *words, "--out", tmp_path / "out")
    assert code == 0, err
    assert "5 bits" in text
    assert not (tmp_path / "out" / "certificate.json").exists()
    assert "not certified" in text


def test_a_budget_that_cannot_be_met_ends_with_3_and_writes_nothing(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["compress", f"{folder}/net.py:network", "--calibration", folder / "calibration.npz", "--out", tmp_path / "out"]
    code, out, err = run(capsys, *words, "--set", "budget.bytes=1000", "--quiet")
    assert code == 3, err
    assert "the budget is 1 000; raise budget.bytes" in err
    assert out == ""
    assert not (tmp_path / "out").exists()


def test_held_out_examples_from_the_calibration_data_are_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = folder / "calibration.npz"
    code, _, err = run(
        capsys, "compress", f"{folder}/net.py:network", "--calibration", data, "--held-out", data, "--out", tmp_path
    )
    assert code == 2
    assert "128 of 128 held-out examples" in err
    assert list(tmp_path.iterdir()) == []


def test_measure_plan_and_compress_one_verb_at_a_time(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [f"{folder}/net.py:network", "--calibration", f"{folder}/net.py:batches"]
    code, text, err = run(capsys, "measure", *words, "--out", tmp_path)
    assert code == 0, err
    assert "left alone: 0 % of the weights" in text
    code, text, err = run(capsys, "plan", tmp_path, "--set", "budget.bytes=0.6", "--out", tmp_path / "plan.toml", "--json")
    assert code == 0, err
    assert json.loads(text)["paths"] == {"plan.toml": str(tmp_path / "plan.toml")}
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "certificate.json").write_text("of an earlier file")
    code, text, err = run(capsys, "compress", *words, "--plan", tmp_path / "plan.toml", "--out", tmp_path / "out", "--json")
    assert code == 0, err
    assert json.loads(text)["bytes"]["after"] > 0
    assert not (tmp_path / "out" / "certificate.json").exists()


def test_bench_times_files_against_each_other(results: Results, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = results
    data = ["--data", folder / "held_out.npz", "--rounds", 3, "--json"]
    code, text, err = run(capsys, "bench", out, "--against", out / "model.onnx", *data)
    assert code == 0, err
    (timing,) = json.loads(text).values()
    assert 0 < timing["minimum"] <= timing["median"] <= timing["p90"]


def test_output_of_libraries_is_not_part_of_the_result() -> None:
    noisy = "import os, sys; from dyncompress.cli import commands; commands._recipes = commands.COMMANDS['recipes']; "
    noisy += "commands.COMMANDS['recipes'] = lambda *a: (os.write(1, b'noise of a library\\n'), commands._recipes(*a))[1]; "
    noisy += "sys.argv = ['dyncompress', 'recipes', 'list', '--json']; sys.exit(commands.entry())"
    done = subprocess.run([sys.executable, "-c", noisy], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) and "noise" in done.stderr
