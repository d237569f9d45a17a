"""`dyncompress convert`: files and folders are written, containers are read, and a wrong request ends with one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import dyncompress as dc
from dyncompress.cli import main
from dyncompress.coding import pack
from dyncompress.deployment import ranges, seal, write
from tests import tiny
from tests.deployment.graphs import TARGET, encode, images, residual


@pytest.fixture
def model(tmp_path: Path) -> Path:
    float_file, weights = residual(4)
    body = write(float_file, {k: (encode(w), "as_is") for k, w in weights.items()}, ranges(float_file, [images(4)]), TARGET)
    path = tmp_path / "run" / "model.onnx"
    path.parent.mkdir()
    path.write_bytes(seal(body, {"statement": "At most 1 % more errors."}))
    (tmp_path / "run" / "small.dync").write_bytes(pack(path.read_bytes()))
    (tmp_path / "float.onnx").write_bytes(float_file)
    (tmp_path / "text.onnx").write_text("no model")
    np.savez(tmp_path / "x.npz", **images(8))
    np.savez(tmp_path / "wrong.npz", x=images(8)["x"][:, :2])
    return path


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("run/model.onnx --to ort --out small.ort", ["small.ort"]),
        ("run --to arrays --out new/small.npz", ["new/small.npz"]),
        ("run/small.dync --to encodings --out new --data x.npz", ["new/encodings.json", "new/model.onnx"]),
        ("float.onnx --to float16 --out half.onnx", ["half.onnx"]),
    ],
)
def test_what_is_written_is_listed_with_its_size_and_notes(
    words: str, names: list[str], model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(model.parents[1])
    assert main(["convert", *words.split()]) == 0
    text = capsys.readouterr().out
    for name in names:
        assert f"{name}: {Path(name).stat().st_size:,} bytes" in text
    assert ("note: the certificate is about the ONNX file" in text) == words.startswith("run")
    assert main(["convert", *words.split(), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert sorted(result["files"]) == names and result["format"] == words.split()[2]


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ("run/model.onnx --to orr --out x.ort", 2, "invalid choice: 'orr'"),
        ("run/model.onnx --to ort", 2, "required: --out"),
        ("absent.onnx --to ort --out x.ort", 2, "there is no such file"),
        ("text.onnx --to ort --out x.ort", 2, "no ONNX file"),
        ("float.onnx --to encodings --out new", 2, "no quantized weights or activations"),
        ("run/model.onnx --to float16 --out x.onnx", 2, "quantizes activations"),
        ("run/model.onnx --to ort --out run", 2, "is a directory"),
        ("run/model.onnx --to ort --out run/model.onnx", 2, "would be lost"),
        ("run/model.onnx --to encodings --out run", 2, "would be lost"),
        ("run --to encodings --out run", 2, "would be lost"),
        ("run/model.onnx --to encodings --out float.onnx", 2, "is a file"),
        ("run/model.onnx --to ort --out /proc/no/x.ort", 2, "can't be written"),
        ("run/model.onnx --to ort --out x.ort --data absent.npz", 2, "no such file"),
        ("run/model.onnx --to ort --out x.ort --data wrong.npz", 2, "doesn't run on these inputs"),
        ("altered.onnx --to ort --out x.ort", 5, "changed"),
        ("altered.dync --to ort --out x.ort", 5, "changed"),
    ],
)
def test_a_wrong_request_ends_with_one_sentence_and_writes_nothing(
    words: str, code: int, says: str, model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = model.parents[1]
    monkeypatch.chdir(folder)
    content, packed = model.read_bytes(), (folder / "run" / "small.dync").read_bytes()
    (folder / "altered.onnx").write_bytes(content.replace(b"1 % more", b"0 % more"))
    (folder / "altered.dync").write_bytes(packed[:-1])
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert main(["convert", *words.split(), "--quiet"]) == code
    out, err = capsys.readouterr()
    assert says in err and err.count("\n") == 1 and not out
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_the_verb_takes_a_file_in_memory_or_a_path(tmp_path: Path) -> None:
    file = tiny.file()
    path = tmp_path / "small.onnx"
    path.write_bytes(file.content)
    for source in (file, path, str(path)):
        assert dc.convert(source, "encodings", inputs=tiny.CALIBRATION).files == dc.convert(file, "encodings").files
