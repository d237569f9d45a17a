"""`dyncompress pack` and `unpack`, and `verify` on a container."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dyncompress.cli import main
from dyncompress.deployment import ranges, seal, write
from dyncompress.pipeline.verification import verify
from tests.deployment.graphs import TARGET, encode, images, residual
from tests.test_packaging import BLOCK, ROOT


@pytest.fixture
def model(tmp_path: Path) -> Path:
    float_file, weights = residual(4)
    body = write(float_file, {k: (encode(w), "as_is") for k, w in weights.items()}, ranges(float_file, [images(4)]), TARGET)
    path = tmp_path / "model.onnx"
    path.write_bytes(seal(body, {"statement": "At most 1 % more errors."}))
    return path


def test_pack_and_unpack_reproduce_the_file(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = model.read_bytes()
    assert main(["pack", str(model.parent)]) == 0
    packed = model.with_suffix(".dync")
    assert f"{packed.stat().st_size:,} bytes, of {model}: {len(whole):,} bytes" in capsys.readouterr().out
    back = model.with_name("back.onnx")
    assert main(["unpack", str(packed), "--out", str(back), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result == {"from": str(packed), "from_bytes": packed.stat().st_size, "file": str(back), "bytes": len(whole)}
    assert back.read_bytes() == whole


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda c: c[:-1], 5),
        (lambda c: c[:60] + b"\0\0\0" + c[63:], 5),
        (lambda c: c[1:], 2),
        (lambda c: c[:4] + b"\x07" + c[5:], 2),
    ],
    ids=["cut", "changed", "foreign", "newer"],
)
def test_bad_containers_end_with_the_documented_codes(model: Path, change, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    packed, out = model.with_suffix(".dync"), model.with_name("out.onnx")
    assert main(["pack", str(model)]) == 0
    packed.write_bytes(change(packed.read_bytes()))
    assert main(["unpack", str(packed), "--out", str(out)]) == code
    assert capsys.readouterr().err.count("\n") == 1 and not out.exists()


def test_files_that_cannot_be_packed_end_with_code_2(model: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.onnx"
    text.write_text("no model")
    assert main(["pack", str(text)]) == 2
    assert main(["pack", str(tmp_path / "absent.onnx")]) == 2
    assert main(["pack", str(model), "--out", str(model)]) == 2
    assert main(["pack", str(model), "--out", str(tmp_path)]) == 2
    assert not list(tmp_path.glob("*.dync"))


def test_unpack_runs_where_torch_and_onnx_are_absent(model: Path) -> None:
    packed, out = model.with_suffix(".dync"), model.with_name("out.onnx")
    blocked = ("torch", "torch_pruning", "onnx", "onnx_ir", "onnxscript", "onnxruntime", "scipy")
    code = BLOCK.format(blocked=blocked) + "from dyncompress.cli import main\n"
    code += f"assert main(['pack', {str(model)!r}]) == 0\nassert main(['unpack', {str(packed)!r}, '--out', {str(out)!r}]) == 0"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert out.read_bytes() == model.read_bytes()


def test_verify_reads_a_container(model: Path) -> None:
    """Both forms are read up to the certificate, which is missing."""
    assert main(["pack", str(model)]) == 0
    for path in (model, model.with_suffix(".dync")):
        with pytest.raises(Exception, match=r"certificate.json"):
            verify(path)
    cut = model.with_suffix(".dync")
    cut.write_bytes(cut.read_bytes()[:-2])
    assert main(["verify", str(cut)]) == 5
