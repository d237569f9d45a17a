"""The command line: words, one sentence an error, exit codes, all files or none; and one whole run on a small network."""

from __future__ import annotations

import json
import stat
import sys
from pathlib import Path

import numpy as np
import pytest

from dyncompress import cli
from dyncompress.arguments import settings
from dyncompress.delivery import check_writable, deliver
from dyncompress.errors import InvalidRequest, Unsupported
from dyncompress.shipped import recipe_files, target_files
from dyncompress.sources import load_data, load_model

NET = '''
import torch
from torch import nn
from factor import FACTOR


def network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        stem = (nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        body = (nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
        return nn.Sequential(*stem, *body, nn.Linear(128, 4 * FACTOR)).eval()


def number():
    return 3


def images(n=128, seed=1):
    return torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def batches():
    yield from images().split(32)
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: a network, its calibration and held-out data."""
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
    """Exit code, standard output, standard error."""
    code = cli.main([str(word) for word in words])
    out, err = capsys.readouterr()
    return code, out, err


# ---------------------------------------------------------------- words
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
def test_a_wrong_word_ends_in_one_sentence_and_code_2(
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


# ---------------------------------------------------------------- what words name
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
def test_a_wrong_model_is_one_sentence(source: str, message: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(InvalidRequest, match=message):
        load_model(source)


@pytest.mark.parametrize("source", ["net.onnx", "net.pt2", "net.pth"])
def test_a_file_that_is_no_python_says_how_to_name_a_network(source: str) -> None:
    with pytest.raises(Unsupported, match=r"net\.py:model"):
        load_model(source)


def test_an_import_error_inside_the_users_module_is_the_users_own(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import no_such_thing_at_all\n")
    with pytest.raises(ModuleNotFoundError, match="no_such_thing_at_all"):
        load_model(f"{tmp_path}/broken.py:network")


def test_absent_data_is_one_sentence() -> None:
    with pytest.raises(InvalidRequest, match="no such file"):
        load_data("absent.npz", "calibration data")


# ---------------------------------------------------------------- delivery
def test_files_arrive_together_and_nothing_else_stays(tmp_path: Path) -> None:
    paths = deliver(tmp_path / "a" / "b", {"one.txt": "1", "two.bin": b"2"})
    assert {path.name: path.read_bytes() for path in (tmp_path / "a" / "b").iterdir()} == {"one.txt": b"1", "two.bin": b"2"}
    assert list(paths) == ["one.txt", "two.bin"]


def test_when_one_file_cannot_be_written_none_is(tmp_path: Path) -> None:
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
    monkeypatch.setattr("tempfile.TemporaryFile", refuse)  # root may write where the permission bits say no
    code, _, err = run(capsys, "compress", "absent.py:network", "--calibration", "absent.npz", "--out", tmp_path / "out")
    assert code == 2
    assert "permission denied" in err
