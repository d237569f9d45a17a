"""Faults by kind and place: each ends with one sentence and its exit code, and changes no file."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from dyncompress import cli
from dyncompress.certificates.stored import to_json
from dyncompress.coding import pack
from dyncompress.recipe.bundled_files import recipe_files, target_files
from dyncompress.recipe.plan_file import plan_to_toml
from dyncompress.recipe.profile_file import profile_to_json
from dyncompress.recording.trajectory_file import save_trajectory
from tests import tiny
from tests.cli.bad_files import ARRAYS, CERTIFICATES, MODELS, NO_FILE, TEXTS, WEIGHTS, Make

NET = "from tests.tiny import network\n"
LONG = "x" * 300  # longer than any file name may be


@dataclass(frozen=True)
class Fault:
    """A command that cannot be carried out.

    Attributes:
        words: arguments of the command line; file names are relative to the folder.
        says: what the message has to name.
        make, at: writes the bad content; the place of the valid file that it replaces.
        files: further files, name -> text.
        code: the exit code.
    """

    words: str
    says: str
    make: Make | None = None
    at: str = ""
    files: dict[str, str] = field(default_factory=dict)
    code: int = 2


# ---------------------------------------------------------------- the valid folder
@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with valid files for every command."""
    folder, file = tmp_path_factory.mktemp("good"), tiny.certified_file()
    assert file.certificate is not None
    (folder / "net.py").write_text(NET)
    np.savez(folder / "data.npz", x=tiny.CALIBRATION)
    np.savez(folder / "held.npz", x=tiny.HELD_OUT[0][:300], y=tiny.HELD_OUT[1][:300])
    save_trajectory(tiny.trained()[1], folder / "run.npz")
    torch.save(tiny.network().state_dict(), folder / "weights.pt")
    safetensors.torch.save_file(tiny.network().state_dict(), folder / "weights.safetensors")
    (folder / "model.onnx").write_bytes(file.content)
    (folder / "small.dync").write_bytes(pack(file.content))
    (folder / "certificate.json").write_text(to_json(file.certificate))
    (folder / "plan.toml").write_text(plan_to_toml(tiny.plan()))
    (folder / "profile.json").write_text(profile_to_json(tiny.profile()))
    (folder / "recipe.toml").write_text(recipe_files()["edge-int8"].read_text())
    (folder / "target.toml").write_text(target_files()["onnxruntime-x86-vnni"].read_text())
    (folder / "runs.csv").write_text("name,model,gap\na,net.py:network,1\nb,net.py:network,2\nc,net.py:network,3\n")
    return folder


@pytest.fixture
def folder(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the valid folder, in which the command runs."""
    place = tmp_path / "here"
    shutil.copytree(good, place, copy_function=os.link)  # links suffice, because files are replaced and never modified
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "path", list(sys.path))
    signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(int(os.environ.get("ALARM", "30")))
    yield place
    signal.alarm(0)
    for name in [name for name in sys.modules if name.startswith("dyncompress_source_")]:
        del sys.modules[name]


def _too_long(*_: object) -> None:
    raise TimeoutError("this command waits for something")


def tree(folder: Path) -> dict[str, bytes | str]:
    """Every file with its bytes, and everything else with its kind."""
    contents: dict[str, bytes | str] = {}
    for path in sorted(folder.rglob("*")):
        if "__pycache__" not in path.parts:
            ordinary = path.is_file() and not path.is_symlink()
            contents[str(path.relative_to(folder))] = path.read_bytes() if ordinary else oct(path.lstat().st_mode)
    return contents


# ---------------------------------------------------------------- the table
COMPRESS = "compress net.py:network --calibration data.npz --out out"
HELD = "compress net.py:network --calibration data.npz --held-out held.npz --out out"
ARRAY_PLACES = {
    "calibration of compress": (COMPRESS, "data.npz"),
    "calibration of measure": ("measure net.py:network --calibration data.npz", "data.npz"),
    "calibration of probe": ("probe net.py:network --calibration data.npz --out o.npz", "data.npz"),
    "calibration of rank": ("rank runs.csv --measures noise_attenuation --calibration data.npz", "data.npz"),
    "held-out of compress": (HELD, "held.npz"),
    "held-out of verify": ("verify model.onnx --held-out held.npz", "held.npz"),
    "data of bench": ("bench model.onnx --data data.npz --rounds 3", "data.npz"),
    "trajectory": (f"{COMPRESS} --recipe trajectory --trajectory run.npz", "run.npz"),
}
TEXT_PLACES = {
    "recipe": (f"{COMPRESS} --recipe recipe.toml", "recipe.toml"),
    "recipe of plan": ("plan profile.json --recipe recipe.toml --out new.toml", "recipe.toml"),
    "target": (f"{COMPRESS} --target target.toml", "target.toml"),
    "target to check": ("targets check ./target.toml", "target.toml"),
    "plan": (f"{COMPRESS} --plan plan.toml", "plan.toml"),
    "profile": ("plan profile.json --out new.toml", "profile.json"),
    "certificate": ("verify model.onnx --certificate certificate.json", "certificate.json"),
    "runs": ("rank runs.csv --measures hill", "runs.csv"),
}
ALTERED = {
    ("verify", "weights elsewhere"),
    ("unpack", "first half"),
    *((p, "a container that was cut") for p in ("verify", "unpack")),
}
MODEL_PLACES = {
    "verify": ("verify model.onnx", "model.onnx"),
    "bench": ("bench model.onnx --data data.npz --rounds 3", "model.onnx"),
    "pack": ("pack model.onnx --out o.dync", "model.onnx"),
    "unpack": ("unpack small.dync --out o.onnx", "small.dync"),
}
NUMBERS = ("nan", "inf", "-inf", "-1", "1e999", "9" * 5000, "1" + "0" * 400, "[]", '"three"', "true")
KEYS = (  # mistakes in a recipe, with the message for each
    *("budget.bytes", "budget.macs", "budget.risk_increase", "quantize.damping", "seed", "quantize.weight_bits"),
    *("certificate.delta", "distill.rate", "distill.epochs", "calibration.limit", "quantize.activation_share"),
)
OPTIONS = {  # option -> the command that accepts it
    "--seed": "probe net.py:network --calibration data.npz --out o.npz",
    "--steps": "probe net.py:network --calibration data.npz --out o.npz",
    "--batch": "probe net.py:network --calibration data.npz --out o.npz",
    "--rate": "probe net.py:network --calibration data.npz --out o.npz",
    "--rounds": "bench model.onnx --data data.npz",
    "--threads": "bench model.onnx --data data.npz",
}
USERS = {  # what the user's module does, and what the message has to say about it
    "imports what isn't there": ("import nowhere_at_all", "bad.py line 1"),
    "has wrong syntax": ("def network(:\n", "bad.py line 1"),
    "is indented wrongly": ("def f():\nreturn 1\n", "bad.py line 2"),
    "holds a null byte": ("x = '\0'\n", "bad.py"),
    "exits when imported": ("import sys\nsys.exit(0)", "sys.exit(0) at bad.py line 2"),
    "fails when imported": ("x = 1\nx / 0", "ZeroDivisionError at bad.py line 2"),
    "has no such callable": ("def other(): pass", "has no callable 'f'"),
    "fails": ("def f():\n    return {}['key']", "KeyError at bad.py line 2"),
    "exits": ("def f():\n    raise SystemExit", "at bad.py line 2"),
    "exits through os": ("import os\ndef f():\n    raise os.error(5, 'broken')", "OSError at bad.py line 3"),
    "raises a BaseException": ("class E(BaseException): pass\ndef f(): raise E('gone')", "E at bad.py line 2: gone"),
    "raises what can't be shown": (
        "class E(Exception):\n    def __str__(self): return 1 / 0\ndef f(): raise E",
        "E at bad.py line 3: its message can't be shown",
    ),
    "raises several lines": ("def f(): raise ValueError('one\\ntwo\\x1b[31m')", "ValueError at bad.py line 1: one two"),
    "recurses": ("def f(): return f()", "RecursionError at bad.py line 1"),
    "runs out of memory": ("def f(): raise MemoryError", "MemoryError at bad.py line 1"),
    "asks for an argument": ("def f(x): return x", "TypeError"),
    "returns what has no values": ("import torch\ndef f(): return torch.nn.Linear(3, 2, device='meta')", ""),
    "returns what has no form": ("import torch\ndef f(): return torch.nn.LazyLinear(3)", ""),
    "returns nothing": ("def f(): return None", "None"),
    "returns a text": ("def f(): return 'x'", "str"),
}
DRAWN = {  # events while the user's data are read
    "fails at its first batch": ("def f():\n    yield 1 / 0", "ZeroDivisionError at bad.py line 2"),
    "fails midway": (
        "from tests.tiny import CALIBRATION\ndef f():\n    yield CALIBRATION\n    raise ValueError('midway')",
        "ValueError at bad.py line 4: midway",
    ),
    "exits midway": ("import sys\ndef f():\n    yield 0\n    sys.exit('done')", "batch"),
    "is an iterable that fails": (
        "class D:\n    def __iter__(self): raise OSError('gone')\ndef f(): return D()",
        "OSError at bad.py line 2: gone",
    ),
    "is empty": ("def f(): return iter(())", "no examples"),
    "holds words": ("import numpy as np\ndef f(): return [np.array(['a', 'b'])]", "numbers are needed"),
}
DRAWN |= {
    f"returns a {kind} tensor": (f"import torch\ndef f(): return [{{'x': {made}}}]", f"returned a {kind} tensor")
    for kind, made in {
        "sparse": "torch.zeros(4, 3, 8, 8).to_sparse()",
        "meta": "torch.zeros(4, 3, 8, 8, device='meta')",
        "nested": "torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)], layout=torch.jagged)",
    }.items()
}
FORWARD = "import torch\nclass N(torch.nn.Module):\n    def __init__(self):\n        super().__init__()\n"
FORWARD += "        self.body = torch.nn.Linear(8, 2)\n    def forward(self, x):\n        {}\ndef f(): return N()\n"
FORWARDS = {
    "raises": ("raise ValueError('bad shape')", "bad.py line 7"),
    "raises a KeyError": ("return {}['k']", "bad.py line 7"),
    "exits": ("raise SystemExit(0)", "bad.py line 7"),
    "divides by zero": ("return self.body(x) / (1 // 0)", "bad.py line 7"),
    "raises a class of its own": ("raise type('Own', (BaseException,), {})('x')", "Own at bad.py line 7"),
}


def outputs() -> dict[str, Fault]:
    """Output options that name a place which cannot be written, or a file that is read."""
    file_commands = {
        "plan": "plan profile.json --out {}",
        "probe": "probe net.py:network --calibration data.npz --out {}",
        "pack": "pack model.onnx --out {}",
        "unpack": "unpack small.dync --out {}",
    }
    no_place: dict[str, tuple[str, Make | None]] = {
        "a directory": ("there", NO_FILE["a directory"]),
        "a pipe": ("there", NO_FILE["a pipe"]),
        "a device": ("/dev/null", None),
        "inside a file": ("net.py/a", None),
        "a name too long": (LONG, None),
        "a folder's name too long": (f"{LONG}/there", None),
    }
    faults = {}
    for command, words in file_commands.items():
        for kind, (place, make) in no_place.items():
            faults[f"{command}: {kind}"] = Fault(words.format(place), place[:6], make, "there" if make else "")
    for command in ("compress", "measure"):
        words = f"{command} net.py:network --calibration data.npz --out {{}}"
        for kind, (place, make) in no_place.items():
            faults[f"{command}: a link to nothing"] = Fault(words.format("there"), "there", NO_FILE["a link to nothing"], "there")
            if kind != "a directory":
                faults[f"{command}: {kind}"] = Fault(words.format(place), place[:6], make, "there" if make else "")
    faults["demo: a directory in the place of a file"] = Fault(
        "demo --out out", "model.onnx", NO_FILE["a directory"], "out/model.onnx"
    )
    faults["compress: a directory in the place of a file"] = Fault(
        COMPRESS, "model.onnx", NO_FILE["a directory"], "out/model.onnx"
    )
    return faults


def overwritten() -> dict[str, Fault]:
    """Commands whose output is one of their inputs: by name, by a symbolic link and by a hard link."""
    inputs = {
        "plan, its profile": ("plan profile.json --out {}", "profile.json"),
        "plan, its recipe": ("plan profile.json --recipe recipe.toml --out {}", "recipe.toml"),
        "probe, its data": ("probe net.py:network --calibration data.npz --out {}", "data.npz"),
        "probe, its model": ("probe net.py:network --calibration data.npz --out {}", "net.py"),
        "pack, its model": ("pack model.onnx --out {}", "model.onnx"),
        "unpack, its container": ("unpack small.dync --out {}", "small.dync"),
        "compress, its data": (f"{COMPRESS} --recipe {{}}", "recipe.toml"),
    }
    links: dict[str, Callable[[str], Make]] = {
        "symbolic link": lambda name: lambda path, good: path.symlink_to(name),
        "hard link": lambda name: lambda path, good: path.hardlink_to(path.with_name(name)),
    }
    faults = {}
    for what, (words, name) in inputs.items():
        if what.startswith("compress"):
            faults[what] = Fault(
                f"{COMPRESS} --recipe {name}", "would be lost", links["symbolic link"](f"../{name}"), "out/plan.toml"
            )
            continue
        faults[what] = Fault(words.format(f"./{name}"), name)
        for kind, link in links.items():
            faults[f"{what}, {kind}"] = Fault(words.format("link"), "link", link(name), "link")
    return faults


def table() -> dict[str, Fault]:
    """All faults by name: `place: kind`."""
    faults = {**outputs(), **overwritten()}
    for place, (words, name) in ARRAY_PLACES.items():
        for kind, make in {**NO_FILE, **ARRAYS}.items():
            faults[f"{place}: {kind}"] = Fault(
                words, "numbers" if kind == "words" and place == "held-out of verify" else name, make, name
            )
    for place, (words, name) in TEXT_PLACES.items():
        kinds = {**NO_FILE, **TEXTS}
        for kind, make in kinds.items():
            if (name, kind) not in {("runs.csv", "deep brackets"), ("target.toml", "first half")}:  # these could be read
                says = "certificate" if name.startswith("certificate") else name
                faults[f"{place}: {kind}"] = Fault(words, says, make, name)
    for name in ("weights.pt", "weights.safetensors"):
        for kind, make in {**NO_FILE, **WEIGHTS}.items():
            runs = {"runs2.csv": f"name,model,weights\na,net.py:network,{name}\nb,net.py:network,{name}\n"}
            faults[f"{name} of rank: {kind}"] = Fault("rank runs2.csv --measures hill --example data.npz", name, make, name, runs)
    for kind, make in CERTIFICATES.items():
        code = 5 if kind == "another delta" else 2
        faults[f"certificate: {kind}"] = Fault("verify model.onnx", "certificate", make, "certificate.json", code=code)
    for place, (words, name) in MODEL_PLACES.items():
        for kind, make in {**NO_FILE, **MODELS}.items():
            if place == "unpack" and kind == "weights elsewhere":
                continue
            code = 5 if (place, kind) in ALTERED else 2
            says = name if kind in NO_FILE else ""
            faults[f"file of {place}: {kind}"] = Fault(words, says, make, name, code=code)
    for key in KEYS:
        for value in NUMBERS:
            if (key, value) not in {("quantize.weight_bits", "[]"), ("seed", "-0")}:
                faults[f"--set {key}={value[:9]}"] = Fault(
                    f"{COMPRESS} --recipe edge-int8 --set {key}={value}", key.split(".")[-1]
                )
    for option, words in OPTIONS.items():
        for value in ("nan", "inf", "-1", "1e999", "9" * 5000, "three", ""):
            faults[f"{option} {value[:9]}"] = Fault(f"{words} {option}={value}", option)
    for kind, (text, says) in USERS.items():
        faults[f"the model's code {kind}"] = Fault(COMPRESS.replace("net.py:network", "bad.py:f"), says, files={"bad.py": text})
    for kind, (text, says) in {**USERS, **DRAWN}.items():
        says = says if kind not in ("returns a text", "exits midway") else ""
        faults[f"the data's code {kind}"] = Fault(COMPRESS.replace("data.npz", "bad.py:f"), says, files={"bad.py": text})
    for kind, (text, says) in FORWARDS.items():
        words = COMPRESS.replace("net.py:network", "bad.py:f")
        faults[f"the model's forward {kind}"] = Fault(words, says, files={"bad.py": FORWARD.replace("{}", text, 1)})
    return faults


WORDS = {
    "no such command": "compres",
    "no words": "compress",
    "an unknown option": f"{COMPRESS} --fast",
    "no such recipe": f"{COMPRESS} --recipe edge-int9",
    "no such target": f"{COMPRESS} --target vnni",
    "a key without a value": f"{COMPRESS} --set budget.bytes",
    "an unknown key": f"{COMPRESS} --set quantize.dampnig=1",
    "a key inside a number": f"{COMPRESS} --set seed.x=1",
    "a key inside a list": f"{COMPRESS} --set quantize.weight_bits.x=1",
    "an empty key": f"{COMPRESS} --set .=1",
    "no data": "compress net.py:network --out out",
    "a model without a callable": "compress net.py --calibration data.npz --out out",
    "a module that isn't there": "compress no.such.module:f --calibration data.npz --out out",
    "a module with an empty name": "compress a..b:f --calibration data.npz --out out",
    "a file of weights": "compress net.pth --calibration data.npz --out out",
    "data in another form": "compress net.py:network --calibration data.csv --out out",
    "an empty word": "compress  --calibration data.npz --out out",
    "an empty option": "compress net.py:network --calibration data.npz --out=",
    "sweeps without end": f"{COMPRESS} --recipe edge-int8 --set quantize.sweeps=99999999999",
    "a batch below zero": f"{COMPRESS} --recipe edge-int8 --set channels.latency_batch=-5",
    "an increase that nobody can promise": f"{HELD} --set budget.risk_increase=1e-300",
    "a null byte": "compress net.py:net\0work --calibration data.npz --out out",
    "no such measure": "rank runs.csv --measures no_such",
    "no such shipped recipe": "recipes show edge-int9",
    "nothing to show": "targets show",
    "a plan of another recipe": f"{COMPRESS} --plan plan.toml --recipe narrow",
    "a gap that is no number": "rank gaps.csv --measures hill --example data.npz",
    "a field beyond all CSV": "rank wide.csv --measures hill --example data.npz",
    "a name twice": "rank twice.csv --measures hill --example data.npz",
    "a container to time": "bench small.dync --data data.npz",
    "a container to pack": "pack small.dync --out o.dync",
    "a plan in its own directory with notes": "compress net.py:network --calibration data.npz --plan plan.toml --out .",
}
RUNS = {  # tables of runs that these arguments name
    "gaps.csv": "name,model,gap\na,net.py:network,nan\nb,net.py:network,1\n",
    "wide.csv": f"name,model\na,{'x' * 200_000}\n",
    "twice.csv": "name,model\na,net.py:network\na,net.py:network\n",
}
ALL = {**table(), **{f"words: {kind}": Fault(words, "", files=RUNS) for kind, words in WORDS.items()}}


def test_the_table_is_large_and_has_no_duplicates() -> None:
    assert len(ALL) >= 300
    places = [(fault.words, fault.at, id(fault.make), str(fault.files)) for fault in ALL.values()]
    assert len(set(places)) == len(places)


@pytest.mark.parametrize("fault", ALL.values(), ids=ALL)
def test_a_fault_gives_one_sentence_and_changes_no_file(fault: Fault, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if fault.make is not None:
        place = folder / fault.at
        good = place.read_bytes() if place.is_file() else b""
        place.unlink(missing_ok=True)
        place.parent.mkdir(exist_ok=True)
        fault.make(place, good)
        assert not place.is_file() or place.is_symlink() or place.read_bytes() != good, "this case would change nothing"
    for name, text in fault.files.items():
        (folder / name).write_text(text)
    if "notes" in fault.says or fault.words.endswith("--out ."):
        (folder / "plan.toml").unlink()
        (folder / "plan.toml").write_text(plan_to_toml(tiny.plan()) + "# a note of my own\n")
    before = tree(folder)
    code = cli.main([*fault.words.split(" "), "--quiet"] if " " in fault.words else [fault.words])
    out, err = capsys.readouterr()
    assert code == fault.code, f"{code}: {err}"
    assert out == ""
    assert err.startswith("dyncompress: ") and err.endswith((".\n", "?\n")) and err.count("\n") == 1, err
    assert "Traceback" not in err and "error of dyncompress itself" not in err and len(err) < 1500, err
    assert fault.says in err, err
    assert tree(folder) == before
