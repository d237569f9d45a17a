from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from dyncompress.deployment import Session, ranges, seal, write
from tests.deployment.graphs import TARGET, encode, images, residual

RUNNER = Path(__file__).resolve().parents[2] / "export" / "runner" / "runner.py"


@pytest.fixture(scope="module")
def runner() -> ModuleType:
    spec = importlib.util.spec_from_file_location("runner", RUNNER)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def body() -> bytes:
    float_file, weights = residual(4)
    return write(float_file, {k: (encode(w), "as_is") for k, w in weights.items()}, ranges(float_file, [images(4)]), TARGET)


@pytest.fixture
def model(body: bytes, tmp_path: Path) -> Path:
    path = tmp_path / "small.onnx"
    path.write_bytes(seal(body, {"statement": "At most 1 % more errors."}))
    return path


def test_it_imports_only_numpy_and_onnxruntime() -> None:
    names = set()
    for node in ast.walk(ast.parse(RUNNER.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").partition(".")[0])
    assert names - set(sys.stdlib_module_names) == {"numpy", "onnxruntime"}


def test_a_process_shows_the_certificate_and_the_latency(model: Path) -> None:
    done = subprocess.run([sys.executable, str(RUNNER), str(model), "--runs", "5"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "seal intact" in done.stdout and "At most 1 % more errors." in done.stdout and "p99" in done.stdout


def test_json_has_every_field(runner: ModuleType, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert runner.main([str(model), "--json", "--runs", "4", "--batch", "3"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["sealed"] and report["certificate"] == {"statement": "At most 1 % more errors."}
    assert report["inputs"] == {"x": ["float32", 3, 3, 16, 16]} and report["outputs"] == {"y": ["float32", 3, 5]}
    seconds = report["seconds"]
    assert 0 < seconds["min"] <= seconds["p50"] <= seconds["p99"] and report["bytes"] == model.stat().st_size


@pytest.mark.parametrize("place", ["body", "statement", "tail", "cut"])
def test_an_altered_file_ends_with_5(runner: ModuleType, model: Path, body: bytes, place: str) -> None:
    content = bytearray(model.read_bytes())
    if place == "body":
        content[len(body) // 2] ^= 1
    elif place == "statement":
        at = content.index(b"1 % more")
        content[at : at + 1] = b"0"
    elif place == "tail":
        content += b"\x72\x00"
    else:
        content = content[:-9]
    model.write_bytes(bytes(content))
    assert runner.main([str(model)]) == 5


def sealed_with(runner: ModuleType, body: bytes, text: bytes) -> bytes:
    """A file whose seal holds this JSON text, with correct lengths."""
    pair = runner.MARK + runner.varint(len(text)) + text
    return body + bytes([14 << 3 | 2]) + runner.varint(len(pair)) + pair


def test_a_duplicate_key_in_the_seal_ends_with_5(
    runner: ModuleType, model: Path, body: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    """The digests are those of the last value of the key, which Python reads; another reader would show the first."""
    sealed = model.read_bytes()
    text = sealed[sealed.index(b"{", len(body)) :]
    assert sealed_with(runner, body, text) == sealed
    model.write_bytes(sealed_with(runner, body, b'{"statement":"It is perfect.",' + text[1:]))
    assert runner.main([str(model), "--runs", "1"]) == 5
    assert "the key 'statement' twice" in capsys.readouterr().err


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"1e999"])
def test_numbers_that_json_lacks_end_with_5(
    runner: ModuleType, model: Path, body: bytes, number: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    def digest(entry: dict) -> str:
        text = json.dumps(entry, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()

    entry = {"delta": float(number), "length": len(body), "sha256": hashlib.sha256(body).hexdigest()}
    text = json.dumps({**entry, "entry_sha256": digest(entry)}).encode()
    model.write_bytes(sealed_with(runner, body, text.replace(json.dumps(float(number)).encode(), number)))
    assert runner.main([str(model), "--runs", "1"]) == 5
    assert f"the number {number.decode()}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("bound", "vacuous"), [("1.0000", True), ("1.0000; the bound is vacuous", True), ("0.9999", False), ("0.0120", False)]
)
def test_a_certificate_that_promises_nothing_is_shown_as_such(
    runner: ModuleType, body: bytes, tmp_path: Path, bound: str, vacuous: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "small.onnx"
    path.write_bytes(seal(body, {"statement": f"The file's error rate exceeds the original's by at most {bound}."}))
    assert runner.main([str(path), "--runs", "1"]) == 0
    assert ("promises nothing" in capsys.readouterr().out) is vacuous
    assert runner.main([str(path), "--runs", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["vacuous"] is vacuous


def test_an_unsealed_file_runs_and_is_called_so_unless_a_seal_is_required(
    runner: ModuleType, body: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "plain.onnx"
    path.write_bytes(body)
    assert runner.main([str(path), "--runs", "2"]) == 0
    assert "never certified" in capsys.readouterr().out
    assert runner.main([str(path), "--require-seal"]) == 5


def test_stored_outputs_are_compared(runner: ModuleType, model: Path, body: bytes, tmp_path: Path) -> None:
    x = images(4)
    inputs, outputs = tmp_path / "in.npz", tmp_path / "out.npz"
    np.savez(inputs, x=x["x"], y=np.zeros(4))
    expected = Session(body, TARGET).run(x)[0]
    np.savez(outputs, y=expected)
    assert runner.main([str(model), "--inputs", str(inputs), "--outputs", str(outputs), "--runs", "2"]) == 0
    np.savez(outputs, y=expected + 0.2 * np.ptp(expected))
    assert runner.main([str(model), "--inputs", str(inputs), "--outputs", str(outputs)]) == 6
    np.savez(outputs, y=expected[:2])
    assert runner.main([str(model), "--inputs", str(inputs), "--outputs", str(outputs)]) == 6
    np.savez(outputs, y=np.full_like(expected, np.nan))
    assert runner.main([str(model), "--inputs", str(inputs), "--outputs", str(outputs)]) == 6


def test_unreadable_input_ends_with_2(
    runner: ModuleType, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.npz"
    broken.write_bytes(b"PK\x03\x04 cut")
    wrong = tmp_path / "wrong.npz"
    np.savez(wrong, x=np.zeros((2, 7), np.float32))
    other = tmp_path / "other.npz"
    np.savez(other, z=np.zeros(2))
    junk = tmp_path / "junk.onnx"
    junk.write_bytes(b"junk")
    calls = [[str(tmp_path / "absent.onnx")], [str(junk)], *[[str(model), "--inputs", str(p)] for p in (broken, wrong, other)]]
    for arguments in calls:
        assert runner.main(arguments) == 2
        assert capsys.readouterr().err.startswith("error: ")
    assert runner.main([str(junk), "--json"]) == 2
    assert json.loads(capsys.readouterr().err)["code"] == 2
    assert runner.main([str(model), "--runs", "0"]) == 2
