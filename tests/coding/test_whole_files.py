"""The output files of a run are written all or not at all, at any step where the run fails, is interrupted or is killed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dyncompress.coding import whole_files
from dyncompress.coding.whole_files import deliver, finish_interrupted, replacing, write_whole
from dyncompress.errors import InvalidRequest

BEFORE = {"plan.toml": "old", "certificate.json": "old", "model.dync": "old", "model.onnx": "old", "mine.txt": "the user's own"}
FILES = {"profile.json": "new", "plan.toml": "new", "certificate.json": "new", "model.onnx": "new"}
AFTER = {**FILES, "mine.txt": "the user's own"}
STALE = ("model.dync", "other.bin")

# Writes the files once for every step: the audit hook sees each open, rename, mkdir and removal, and stops the k-th one. The
# results are the directories `k/`, and the number of steps on standard output.
DRIVER = """
import os, sys
from pathlib import Path
from dyncompress.coding.whole_files import deliver
from tests.coding.test_whole_files import BEFORE, FILES, STALE

FAULT, ROOT, FRESH = sys.argv[1], Path(sys.argv[2]), sys.argv[3] == "fresh"
STEPS = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.listdir"}

def one(k):
    count = 0
    def hook(event, args):
        nonlocal count
        if event in STEPS and str(ROOT) in str(args[0]):
            count += 1
            if count == k:
                if FAULT == "kill":
                    os._exit(9)
                raise KeyboardInterrupt if FAULT == "interrupt" else OSError(28, "No space left on device")
    sys.addaudithook(hook)
    deliver(ROOT / str(k) / "out", FILES, stale=STALE)
    os._exit(0 if count < k else 1)

for k in range(1, 200):
    (ROOT / str(k) / "out").mkdir(parents=True)
    if FRESH:
        (ROOT / str(k) / "out").rmdir()
    else:
        for name, text in BEFORE.items():
            (ROOT / str(k) / "out" / name).write_text(text)
    child = os.fork()
    if child == 0:
        try:
            one(k)
        except BaseException:
            os._exit(7)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code == 0:
        print(k - 1)
        break
"""


def contents(folder: Path) -> dict[str, str]:
    """The files that a user sees."""
    return {path.name: path.read_text() for path in folder.iterdir() if not path.name.startswith(".")} if folder.is_dir() else {}


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")] if folder.is_dir() else []


def driven(fault: str, tmp_path: Path, begin: str) -> list[Path]:
    """The directory after each interruption."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, fault, str(tmp_path), begin], capture_output=True, text=True, check=True, env=environment
    )
    steps = int(done.stdout)
    assert steps > 20
    return [tmp_path / str(k) / "out" for k in range(1, steps + 1)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the driver forks")
@pytest.mark.parametrize("begin", ["filled", "fresh"])
def test_a_run_killed_at_any_step_leaves_old_or_new_files_or_no_model(begin: str, tmp_path: Path) -> None:
    before = BEFORE if begin == "filled" else {}
    after = AFTER if begin == "filled" else FILES
    seen = set()
    for folder in driven("kill", tmp_path, begin):
        found = contents(folder)
        seen.add("old" if found == before else "new" if found == after else "between")
        assert found in (before, after) or "model.onnx" not in found, folder
        texts = {found[name] for name in found.keys() & {"certificate.json", "model.onnx", "model.dync"}}
        assert len(texts) <= 1, f"{folder}: files of two runs stand together"
        if folder.is_dir():
            finish_interrupted(folder)
            assert contents(folder) in (before, after), folder
        deliver(folder, FILES, stale=STALE)
        assert contents(folder) == after
        assert hidden(folder) == []
    assert seen >= {"old", "new"}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the driver forks")
@pytest.mark.parametrize("fault", ["interrupt", "full disk"])
@pytest.mark.parametrize("begin", ["filled", "fresh"])
def test_a_failure_at_any_step_leaves_old_or_new_files(fault: str, begin: str, tmp_path: Path) -> None:
    before = BEFORE if begin == "filled" else {}
    after = AFTER if begin == "filled" else FILES
    whole = {"old": 0, "new": 0}
    for folder in driven(fault, tmp_path, begin):
        found = contents(folder)
        if whole_files.STAGING in hidden(folder):  # the fault hit the removal of staged files, which the next run completes
            finish_interrupted(folder)
        assert found in (before, after) or (begin == "filled" and contents(folder) == before), folder
        whole["new" if found == after else "old"] += 1
        assert fault == "interrupt" or not {whole_files.STAGING} & set(hidden(folder))
    assert min(whole.values()) > 0


def test_a_failure_half_way_says_that_nothing_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in BEFORE.items():
        (tmp_path / name).write_text(text)
    real, count = os.replace, 0

    def failing(source: Path, target: Path) -> None:
        nonlocal count
        count += 1
        if count == 7:
            raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(InvalidRequest, match="no space left on device; nothing was written"):
        deliver(tmp_path, FILES, stale=STALE)
    assert contents(tmp_path) == BEFORE
    assert hidden(tmp_path) == []


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), KeyboardInterrupt()])
def test_a_disk_that_fails_to_sync_leaves_old_or_new_files(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes = set()
    for k in range(1, len(FILES) + 5):
        folder = tmp_path / str(k)
        folder.mkdir()
        for name, text in BEFORE.items():
            (folder / name).write_text(text)
        left = [k]

        def failing(_: int, left: list[int] = left) -> None:
            left[0] -= 1
            if not left[0]:
                raise error

        monkeypatch.setattr(os, "fsync", failing)
        try:
            deliver(folder, FILES, stale=STALE)
        except (InvalidRequest, KeyboardInterrupt):
            assert contents(folder) in (BEFORE, AFTER)
        else:
            assert contents(folder) == AFTER
        assert hidden(folder) == []
        outcomes.add("new" if contents(folder) == AFTER else "old")
    assert outcomes == {"old", "new"}


def test_files_of_an_earlier_run_are_removed_in_the_same_step(tmp_path: Path) -> None:
    for name, text in BEFORE.items():
        (tmp_path / name).write_text(text)
    deliver(tmp_path, FILES, stale=(*STALE, "model.onnx"))
    assert contents(tmp_path) == AFTER


@pytest.mark.parametrize("name", ["", "..", "a/b", "x" * 300])
def test_an_impossible_file_name_leaves_nothing(name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="nothing was written"):
        deliver(tmp_path / "new" / "out", {"first.txt": "1", name: "2"})
    assert list(tmp_path.iterdir()) == []


def test_directories_and_pipes_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").mkdir()
    with pytest.raises(InvalidRequest, match="is a directory"):
        deliver(tmp_path, FILES)
    os.mkfifo(tmp_path / "plan.txt")
    with pytest.raises(InvalidRequest, match="is a device or a pipe"):
        write_whole(tmp_path / "plan.txt", "x")
    assert sorted(os.listdir(tmp_path)) == ["model.onnx", "plan.txt"]


@pytest.mark.skipif(whole_files.fcntl is None, reason="no such locks here")
def test_two_runs_into_one_directory_wait_for_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    holder = "import fcntl, os, sys, time; f = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT); fcntl.flock(f, fcntl.LOCK_EX); "
    holder += "print('held', flush=True); time.sleep(60)"
    other = subprocess.Popen([sys.executable, "-c", holder, str(tmp_path / whole_files.LOCK)], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None and other.stdout.readline() == "held\n"
    monkeypatch.setattr(whole_files, "WAIT_SECONDS", 0.3)
    start = time.monotonic()
    with pytest.raises(InvalidRequest, match="another run is writing there"):
        write_whole(tmp_path / "plan.toml", "x")
    assert time.monotonic() - start > 0.2
    assert not (tmp_path / "plan.toml").exists()
    other.kill()
    other.wait()
    other.stdout.close()
    write_whole(tmp_path / "plan.toml", "x")
    assert os.listdir(tmp_path) == ["plan.toml"]


def test_a_large_file_is_replaced_completely_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "run.npz"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as part:
        part.write_text("ne")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    with replacing(path) as part:
        part.write_text("new")
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["run.npz"]
