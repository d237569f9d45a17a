"""The runner where something is wrong: one sentence, a documented exit code, and no incomplete file."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import onnxruntime
import pytest

from dyncompress.deployment import ranges, seal, write
from tests.deployment.graphs import TARGET, encode, images, residual

RUNNER = Path(__file__).resolve().parents[2] / "export" / "runner" / "runner.py"
UNPACK = RUNNER.with_name("unpack.py")


def load_module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"faulty_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


runner, unpacker = load_module(RUNNER), load_module(UNPACK)


@pytest.fixture(scope="module")
def content() -> bytes:
    float_file, weights = residual(4)
    body = write(float_file, {k: (encode(w), "as_is") for k, w in weights.items()}, ranges(float_file, [images(4)]), TARGET)
    return seal(body, {"statement": "At most 1 % more errors."})


@pytest.fixture
def folder(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a file and its inputs, in which the runner is called."""
    (tmp_path / "small.onnx").write_bytes(content)
    np.savez(tmp_path / "in.npz", x=images(4)["x"])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def npz(**arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def zipped(name: str, data: bytes, method: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        archive.writestr(name, data)
    return stream.getvalue()


def encrypted() -> bytes:
    whole = bytearray(npz(x=np.ones(3)))
    for mark, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        whole[whole.index(mark) + at] |= 1
    return bytes(whole)


def huge_header() -> bytes:
    head = b"{'descr': '<f4', 'fortran_order': False, 'shape': (9999999999999, 9999), }\n"
    return zipped("x.npy", b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head)


BAD_ARRAYS: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "text": lambda: b"1,2,3\n",
    "cut": lambda: npz(x=np.ones((4, 3, 16, 16), np.float32))[:-40],
    "pickled": lambda: npz(x=np.array([{}], dtype=object)),
    "words": lambda: npz(x=np.array(["a", "b"])),
    "other input": lambda: npz(z=np.ones(3)),
    "other shape": lambda: npz(x=np.ones((2, 7), np.float32)),
    "encrypted": encrypted,
    "LZMA, damaged": lambda: zipped("x.npy", bytes(999), zipfile.ZIP_LZMA).replace(b"\x05\x00", b"\xff\xff", 1),
    "a header beyond all memory": huge_header,
    "a bomb": lambda: zipped("x.npy", bytes(30 << 20), zipfile.ZIP_DEFLATED)[:-20],
}
BAD_WORDS = {
    "no words": [],
    "unknown option": ["small.onnx", "--fast"],
    "absent file": ["absent.onnx"],
    "a directory": ["."],
    "a device": ["/dev/zero"],
    "null byte": ["a\0b"],
    "name too long": ["x" * 5000],
    "no runs": ["small.onnx", "--runs", "0"],
    "runs of 5000 digits": ["small.onnx", "--runs", "9" * 5000],
    "tolerance nan": ["small.onnx", "--tolerance", "nan"],
    "tolerance below zero": ["small.onnx", "--tolerance", "-1"],
    "outputs without inputs": ["small.onnx", "--outputs", "in.npz"],
    "writing without inputs": ["small.onnx", "--write-outputs", "out.npz"],
    "absent inputs": ["small.onnx", "--inputs", "absent.npz"],
    "inputs a directory": ["small.onnx", "--inputs", "."],
    "no such output": ["small.onnx", "--inputs", "in.npz", "--outputs", "in.npz"],
    "over its inputs": ["small.onnx", "--inputs", "in.npz", "--write-outputs", "in.npz"],
    "over the model": ["small.onnx", "--inputs", "in.npz", "--write-outputs", "./small.onnx"],
    "unpacked over itself": ["small.onnx", "--unpack", "small.onnx"],
    "two outputs, one name": ["small.onnx", "--inputs", "in.npz", "--unpack", "o", "--write-outputs", "o"],
    "into no folder": ["small.onnx", "--inputs", "in.npz", "--write-outputs", "no/out.npz"],
    "into a directory": ["small.onnx", "--unpack", "/"],
    "into a device": ["small.onnx", "--unpack", "/dev/null"],
    "unpacked to a name too long": ["small.onnx", "--unpack", "x" * 300],
}


def refused(words: list[str], folder: Path, capsys: pytest.CaptureFixture[str], code: int = 2) -> str:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert runner.main(words) == code
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.endswith(".\n") and err.count("\n") == 1, err
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    return err


@pytest.mark.parametrize("words", BAD_WORDS.values(), ids=BAD_WORDS)
def test_a_wrong_word_is_one_sentence(words: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused(words, folder, capsys)


@pytest.mark.parametrize("made", BAD_ARRAYS.values(), ids=BAD_ARRAYS)
@pytest.mark.parametrize("option", ["--inputs", "--outputs"])
def test_bad_arrays_are_one_sentence(
    option: str, made: Callable[[], bytes], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "bad.npz").write_bytes(made())
    refused(["small.onnx", "--inputs", "bad.npz" if option == "--inputs" else "in.npz", "--outputs", "bad.npz"], folder, capsys)


def test_a_full_disk_leaves_nothing(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> int:
        with open(path, "wb") as file:
            file.write(content[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    words = ["small.onnx", "--inputs", "in.npz", "--write-outputs", "out.npz"]
    assert "No space left on device" in refused(words, folder, capsys)
    monkeypatch.undo()


@pytest.mark.parametrize(("error", "code"), [(MemoryError(), 71), (KeyboardInterrupt(), 130), (ZeroDivisionError("x\ny"), 70)])
def test_other_failures_have_exit_codes_of_their_own(
    error: BaseException, code: int, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def raising(*_: object) -> None:
        raise error

    monkeypatch.setattr(runner, "run", raising)
    monkeypatch.chdir(folder)
    refused(["small.onnx"], folder, capsys, code)


def test_json_errors_are_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert runner.main(["absent.onnx", "--json", "--runs", "-3"]) == 2
    assert json.loads(capsys.readouterr().err)["code"] == 2


def test_weights_in_another_file_are_one_sentence(folder: Path, content: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    model = onnx.load_from_string(content)
    onnx.save(model, folder / "outside.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    (folder / "weights.bin").unlink()
    runner.main(["outside.onnx"])
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1


def test_reference_outputs_are_written_and_compared(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["small.onnx", "--inputs", "in.npz", "--runs", "2"]
    assert runner.main([*words, "--write-outputs", "out.npz"]) == 0
    assert "outputs written: out.npz" in capsys.readouterr().out
    expected = np.asarray(onnxruntime.InferenceSession(folder / "small.onnx").run(None, images(4))[0])
    with np.load(folder / "out.npz") as written:
        assert written.files == ["y"]
        np.testing.assert_allclose(written["y"], expected, atol=1e-3 * np.ptp(expected))
    assert runner.main([*words, "--outputs", "out.npz", "--tolerance", "0", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["differences"] == {"y": 0.0}
    np.savez(folder / "device.npz", y=expected + np.ptp(expected))
    assert runner.main([*words, "--outputs", "device.npz"]) == 6
    assert sorted(os.listdir(folder)) == ["device.npz", "in.npz", "out.npz", "small.onnx"]


@pytest.mark.parametrize(
    "words", [[], ["a"], ["absent", "o"], [".", "o"], ["small.onnx", "small.onnx"], ["small.onnx", "/dev/null"]]
)
def test_the_decoder_alone_refuses_in_a_line(words: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert unpacker.main(words) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert sorted(os.listdir(folder)) == ["in.npz", "small.onnx"]


def test_a_device_without_numpy_names_the_packages_to_install(folder: Path) -> None:
    done = subprocess.run([sys.executable, "-S", str(RUNNER), "small.onnx"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stdout == ""
    assert "pip install numpy onnxruntime" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_standard_output_ends_with_74(folder: Path) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, str(RUNNER), "small.onnx", "--runs", "2"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 74, done.stderr
    assert done.stderr.startswith("error: the answer can't be written") and done.stderr.count("\n") == 1
