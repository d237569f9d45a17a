"""The end of a command: exit codes, closed or full streams, Ctrl-C, and errors reported before torch is imported."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dyncompress import cli
from dyncompress.cli import commands
from dyncompress.cli.arguments import parser
from dyncompress.cli.exit_codes import MEANINGS, one_sentence
from dyncompress.errors import Altered, Differs, Infeasible, NotCertified
from tests import tiny

ROOT = Path(__file__).resolve().parents[2]
COMPRESS = "compress net.py:network --calibration data.npz --out out"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder with a network and data."""
    (tmp_path / "net.py").write_text("from tests.tiny import network\n")
    np.savez(tmp_path / "data.npz", x=tiny.CALIBRATION)
    (tmp_path / "runs.csv").write_text("name,model\na,net.py:network\nb,absent.py:network\n")
    (tmp_path / "text.onnx").write_text("text")
    (tmp_path / "broken.py").write_text("def network(:\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(words: str, shell: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a separate process; `shell` is what a shell appends, such as `2>&-`."""
    paths = {"PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(
        ["sh", "-c", f'"{sys.executable}" -m dyncompress.cli {words} {shell}'],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **paths},
    )


def is_one_sentence(err: str) -> bool:
    return err.startswith("dyncompress: ") and err.endswith((".\n", "?\n")) and err.count("\n") == 1


# ---------------------------------------------------------------- codes
class Odd(BaseException):
    """An exception that `except Exception` does not catch."""


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (Infeasible("the budget is 1; raise it."), 3, "raise it."),
        (NotCertified("not kept."), 4, "not kept."),
        (Altered("it was changed."), 5, "changed."),
        (Differs("they differ"), 6, "differ."),
        (ZeroDivisionError("division\nby zero"), 70, "ZeroDivisionError at commands.py line"),
        (AttributeError("'NoneType' object has no attribute 'x'"), 70, "DYNCOMPRESS_TRACEBACK=1"),
        (RecursionError("too deep"), 70, "please report it"),
        (Odd("odd"), 70, "Odd"),
        (MemoryError(), 71, "not enough memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), 71, "not enough memory"),
        (OSError(28, "No space left on device", "/somewhere"), 2, "/somewhere: no space left on device."),
        (ModuleNotFoundError("No module named 'torch'", name="torch"), 2, "the package 'torch' can't be imported"),
        (ModuleNotFoundError("No module named 'dyncompress.x'", name="dyncompress.x"), 70, "please report it"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_every_exception_has_its_code(
    error: BaseException, code: int, says: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def raising(*_: object) -> commands.Result:
        raise error

    monkeypatch.setitem(commands.COMMANDS, "recipes", raising)
    assert cli.main(["recipes"]) == code
    out, err = capsys.readouterr()
    assert out == "" and is_one_sentence(err) and says in err, err
    monkeypatch.setenv("DYNCOMPRESS_TRACEBACK", "1")
    assert cli.main(["recipes"]) == code
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_the_exit_codes_are_documented_everywhere() -> None:
    doc = " ".join((cli.main.__doc__ or "").split())
    readme = " ".join((ROOT / "README.md").read_text().split())
    shown = " ".join(parser().format_help().split())
    for code, meaning in MEANINGS.items():
        assert f"{code} {meaning}" in shown and f"{code} {meaning}" in readme
        assert f" {code} " in doc, code


def test_a_sentence_is_one_line_of_printable_characters() -> None:
    assert one_sentence("a\n b\x1b[31m\ud800 c") == "a b?[31m? c."
    assert one_sentence("did you mean 'x'?") == "did you mean 'x'?"
    assert len(one_sentence("9" * 10**6)) < 1300


# ---------------------------------------------------------------- streams
def test_output_of_the_users_code_is_not_part_of_the_result(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "loud.py").write_text(
        "import sys\nprint('imported')\nfrom tests.tiny import CALIBRATION\ndef f():\n    print('drawn')\n    yield CALIBRATION\n"
    )
    assert cli.main([*["measure", "net.py:network", "--calibration", "loud.py:f", "--json", "--quiet"]]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["bytes"] > 0
    assert err.splitlines() == ["imported", "drawn"]


def test_output_after_the_result_is_not_part_of_it(folder: Path) -> None:
    late = "import atexit\natexit.register(print, 'at the end')\nfrom tests.tiny import network\n"
    (folder / "late.py").write_text(late)
    done = run("measure late.py:network --calibration data.npz --json --quiet")
    assert done.returncode == 0 and json.loads(done.stdout)["bytes"] > 0
    assert done.stderr == "at the end\n"


STREAMS = {  # redirection by the shell -> exit codes of a result and of an error
    "": (0, 2),
    ">&-": (74, 2),
    ">/dev/full": (74, 2),
    "2>&-": (0, 2),
    "2>/dev/full": (0, 2),
    ">&- 2>&-": (74, 2),
    "<&-": (0, 2),
}


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
@pytest.mark.parametrize("shell", STREAMS)
def test_closed_and_full_streams(shell: str) -> None:
    answered, failed = run("recipes list", shell), run("recipes show absent", shell)
    assert (answered.returncode, failed.returncode) == STREAMS[shell]
    for done in (answered, failed):
        assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr
    if "2>" not in shell:
        assert is_one_sentence(failed.stderr)
        assert (answered.returncode == 0 and not answered.stderr) or is_one_sentence(answered.stderr)
    assert answered.returncode == 74 or "edge-int8" in answered.stdout


@pytest.mark.parametrize(
    "environment", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}]
)
def test_terminals_with_ascii_only(environment: dict[str, str], folder: Path) -> None:
    done = run("recipes show 'é→.toml'", **environment)
    assert done.returncode == 2 and is_one_sentence(done.stderr) and done.stderr.isascii()
    (folder / "é.toml").write_text('summary = "→ é"\n', encoding="utf-8")
    done = run("recipes show ./é.toml", **environment)
    assert done.returncode == 0 and done.stderr == "" and done.stdout.isascii()


def test_ctrl_c_gives_one_line_and_code_130(folder: Path) -> None:
    (folder / "slow.py").write_text("import sys, time\nprint('here', file=sys.stderr, flush=True)\ntime.sleep(60)\n")
    words = ["compress", "slow.py:network", "--calibration", "data.npz", "--out", "out", "--quiet"]
    # Tests in the background ignore the signal, and the child would inherit that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        [sys.executable, "-m", "dyncompress.cli", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    signal.signal(signal.SIGINT, before)
    with process:
        assert process.stderr is not None and process.stderr.readline() == "here\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130 and out == "" and is_one_sentence(err) and "interrupted" in err
    assert not (folder / "out").exists()


def test_ctrl_c_while_the_command_is_imported(tmp_path: Path) -> None:
    (tmp_path / "argparse.py").write_text("raise KeyboardInterrupt\n")  # the first module that the command line imports
    paths = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    done = subprocess.run([sys.executable, "-m", "dyncompress"], capture_output=True, text=True, check=False, env=paths)
    assert done.returncode == 130 and done.stdout == "" and done.stderr == "dyncompress: interrupted.\n"


def test_a_run_shows_the_users_own_warnings_and_no_others(folder: Path) -> None:
    own = "import warnings\nfrom tests.tiny import network\ndef f():\n    warnings.warn('mine')\n    return network()\n"
    (folder / "warns.py").write_text(own)
    done = run("compress warns.py:f --calibration data.npz --out out --json --quiet")
    assert done.returncode == 0 and json.loads(done.stdout)["bytes"]["after"] > 0
    assert "UserWarning: mine" in done.stderr and len(done.stderr.splitlines()) <= 2, done.stderr


def test_the_exporters_graphs_are_not_shown(folder: Path) -> None:
    (folder / "dump.py").write_text(
        "import torch\n"
        "class N(torch.nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n"
        "        self.c, self.o = torch.nn.Conv2d(3, 4, 3), torch.nn.Linear(4, 3)\n"
        "    def forward(self, x):\n        y = self.c(x).relu().flatten(2)\n        return self.o(y.mT.nan_to_num().mean(1))\n"
        "def f():\n    return N().eval()\n"
    )
    done = run("compress dump.py:f --calibration data.npz --out out --json --quiet")
    assert done.returncode == 0 and done.stderr == "" and json.loads(done.stdout)["bytes"]["after"] > 0


# ---------------------------------------------------------------- before torch is imported
EARLY = {
    "an unknown option": f"{COMPRESS} --fast",
    "an unknown recipe": f"{COMPRESS} --recipe edge-int9",
    "an unknown target": f"{COMPRESS} --target vnni",
    "an unknown key": f"{COMPRESS} --set quantize.dampnig=1",
    "an impossible number": f"{COMPRESS} --set quantize.damping=nan",
    "an impossible width": f"{COMPRESS} --set quantize.weight_bits=[9]",
    "absent data": "compress net.py:network --calibration absent.npz --out out",
    "absent held-out data": f"{COMPRESS} --held-out absent.npz",
    "an absent model": "compress absent.py:network --calibration data.npz --out out",
    "a model of wrong syntax": "compress broken.py:network --calibration data.npz --out out",
    "a model in an ONNX file": "compress text.onnx --calibration data.npz --out out",
    "no data": "compress net.py:network --out out",
    "an absent plan": f"{COMPRESS} --plan absent.toml",
    "an absent trajectory": f"{COMPRESS} --trajectory absent.npz",
    "a place that can't be written": "compress net.py:network --calibration data.npz --out net.py/out",
    "measure: an unknown recipe": "measure net.py:network --calibration data.npz --recipe edge-int9",
    "probe: absent data": "probe net.py:network --calibration absent.npz --out o.npz",
    "probe: no steps": "probe net.py:network --calibration data.npz --out o.npz --steps 0",
    "plan: no profile": "plan absent.json",
    "rank: no runs": "rank absent.csv --measures hill",
    "rank: no such measure": "rank runs.csv --measures no_such",
    "rank: an absent model": "rank runs.csv --measures hill",
    "bench: no file": "bench absent.onnx --data data.npz",
    "bench: no ONNX file": "bench text.onnx --data data.npz",
    "verify: no file": "verify absent.onnx",
    "pack: no file": "pack absent.onnx",
    "targets: an absent file": "targets check absent.toml",
}


def test_usage_errors_are_reported_before_torch_is_imported(folder: Path) -> None:
    script = f"import sys, io, json, contextlib\nfrom dyncompress import cli\nfor kind, words in {EARLY!r}.items():\n"
    script += "    err = io.StringIO()\n    with contextlib.redirect_stderr(err):\n        code = cli.main(words.split())\n"
    script += "    heavy = [m for m in ('torch', 'onnx', 'onnxruntime', 'scipy.optimize') if m in sys.modules]\n"
    script += "    print(json.dumps([kind, code, err.getvalue(), heavy]))\n"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    outcomes = [json.loads(line) for line in done.stdout.splitlines()]
    assert [kind for kind, *_ in outcomes] == list(EARLY)
    for kind, code, err, heavy in outcomes:
        assert code == 2 and is_one_sentence(err), (kind, err)
        assert heavy == [], f"{kind}: {heavy} imported before it was refused"


# ---------------------------------------------------------------- results over results
def test_a_plan_can_be_applied_repeatedly_in_its_output_directory(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*COMPRESS.split(), "--quiet"]
    assert cli.main(words) == 0
    asked = (folder / "out" / "plan.toml").read_text()
    profile = (folder / "out" / "profile.json").read_bytes()
    edited = asked.replace("weight_bits = 8", "weight_bits = 5", 1)
    assert edited != asked
    (folder / "out" / "plan.toml").write_text(edited)
    (folder / "out" / "certificate.json").write_text("of an earlier file")
    for _ in range(2):
        assert cli.main([*words, "--plan", "out/plan.toml"]) == 0, capsys.readouterr().err
        assert "weight_bits = 5" in (folder / "out" / "plan.toml").read_text()
    assert sorted(os.listdir(folder / "out")) == ["model.onnx", "plan.toml", "profile.json", "report.html"]
    assert (folder / "out" / "profile.json").read_bytes() == profile  # it took long to measure, and belongs to the same weights
    (folder / "out" / "profile.json").write_text("{}")
    assert cli.main([*words, "--plan", "out/plan.toml"]) == 0
    assert not (folder / "out" / "profile.json").exists()
    capsys.readouterr()
    with (folder / "out" / "plan.toml").open("a") as file:
        file.write("# conv2 was too noisy at 4 bits\n")
    before = (folder / "out" / "model.onnx").read_bytes()
    assert cli.main([*words, "--plan", "out/plan.toml"]) == 2
    assert "'# conv2 was too noisy at 4 bits'" in capsys.readouterr().err
    assert (folder / "out" / "model.onnx").read_bytes() == before
