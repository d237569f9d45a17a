from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from dyncompress.coding import pack, unpack
from dyncompress.deployment import ranges, seal, write
from tests.deployment.graphs import TARGET, encode, images, residual
from tools import assemble_unpacker
from tools.assemble_unpacker import TARGET as UNPACK
from tools.assemble_unpacker import Definition, assemble, reachable, with_plain_arrays

RUNNER = UNPACK.with_name("runner.py")


@pytest.fixture(scope="module")
def decoder() -> ModuleType:
    spec = importlib.util.spec_from_file_location("unpack_beside_the_runner", UNPACK)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def runner() -> ModuleType:
    spec = importlib.util.spec_from_file_location("runner_of_containers", RUNNER)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def sealed_of(bits: int) -> bytes:
    float_file, weights = residual(4)
    encodings = {k: (encode(w, bits), "as_is") for k, w in weights.items()}
    return seal(write(float_file, encodings, ranges(float_file, [images(4)]), TARGET), {"statement": f"{bits} bits."})


@pytest.fixture(scope="module")
def sealed() -> bytes:
    return sealed_of(8)


@pytest.fixture
def container(sealed: bytes, tmp_path: Path) -> Path:
    path = tmp_path / "small.dync"
    path.write_bytes(pack(sealed))
    return path


def test_the_file_is_current() -> None:
    assert UNPACK.read_text() == assemble(), "run `python -m tools.assemble_unpacker`"


def test_the_check_refuses_another_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = tmp_path / "unpack.py"
    changed.write_text(UNPACK.read_text() + "\n")
    monkeypatch.setattr(assemble_unpacker, "ROOT", tmp_path)
    monkeypatch.setattr(assemble_unpacker, "TARGET", changed)
    monkeypatch.setattr(assemble_unpacker, "assemble", UNPACK.read_text)
    assert assemble_unpacker.main(["--check"]) == 1
    assert "unpack.py isn't current; run `python -m tools.assemble_unpacker`" in capsys.readouterr().err
    assert assemble_unpacker.main([]) == assemble_unpacker.main(["--check"]) == 0
    assert changed.read_text() == UNPACK.read_text()


def test_only_what_unpack_uses_is_assembled() -> None:
    def definition(name: str, *uses: str, module: str = "container") -> Definition:
        return Definition(module, frozenset([name]), frozenset(uses), "", True)

    unpack, read, pack = definition("unpack", "_read", "len"), definition("_read"), definition("pack", "_write", "_read")
    write = definition("_write", module="tensors")
    assert reachable([unpack, read, pack, write]) == {unpack, read}
    with pytest.raises(ValueError, match="'_read' is defined in container and tensors; rename one"):
        reachable([unpack, read, definition("_read", module="tensors")])


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_both_decoders_give_the_same_bytes(decoder: ModuleType, bits: int) -> None:
    packed = pack(sealed_of(bits))
    assert decoder.unpack(packed) == unpack(packed) == sealed_of(bits)


def test_both_decoders_refuse_alike(decoder: ModuleType, sealed: bytes) -> None:
    packed = pack(sealed)
    rng = np.random.default_rng(0)
    for _ in range(20):
        changed = bytearray(packed)
        changed[int(rng.integers(len(packed)))] ^= 1 << int(rng.integers(8))
        with pytest.raises((decoder.Altered, decoder.InvalidRequest)):
            decoder.unpack(bytes(changed))


def test_annotated_shapes_are_left_out() -> None:
    module = "from dyncompress.types.arrays import Float, Int64\n\n\ndef f(x: {0}, é: tuple[{1}, ...]) -> {0}: ...\n"
    annotated = module.format('Float[np.ndarray, "n d"]', 'Int64[np.ndarray, " n"]')
    assert with_plain_arrays(annotated) == module.format("np.ndarray", "np.ndarray")


def test_the_runner_unpacks_runs_and_writes(
    runner: ModuleType, container: Path, sealed: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    out = container.with_name("back.onnx")
    assert runner.main([str(container), "--unpack", str(out), "--runs", "2"]) == 0
    assert out.read_bytes() == sealed
    printed = capsys.readouterr().out
    assert "seal intact" in printed and "8 bits." in printed and f"{len(sealed):,} unpacked" in printed


def test_an_altered_container_ends_with_5_a_newer_one_with_2(runner: ModuleType, container: Path) -> None:
    whole = container.read_bytes()
    for content, code in ((whole[:-1], 5), (whole[:40] + b"\0" + whole[41:], 5), (whole[:4] + b"\x09" + whole[5:], 2)):
        container.write_bytes(content)
        assert runner.main([str(container), "--unpack", str(container.with_name("no.onnx"))]) == code
    assert not container.with_name("no.onnx").exists()


def test_the_runner_says_what_to_copy(tmp_path: Path, container: Path) -> None:
    alone = tmp_path / "alone" / "runner.py"
    alone.parent.mkdir()
    alone.write_text(RUNNER.read_text())
    done = subprocess.run([sys.executable, str(alone), str(container)], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "copy unpack.py beside runner.py" in done.stderr


def test_the_decoder_runs_by_itself(tmp_path: Path, container: Path, sealed: bytes) -> None:
    alone, out = tmp_path / "unpack.py", tmp_path / "out.onnx"
    alone.write_text(UNPACK.read_text())
    command = [sys.executable, str(alone), str(container), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and out.read_bytes() == sealed, done.stderr
    container.write_bytes(container.read_bytes()[:-1])
    assert subprocess.run(command, capture_output=True, check=False).returncode == 5
    assert subprocess.run(command[:3], capture_output=True, check=False).returncode == 2
