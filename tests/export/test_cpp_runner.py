"""The example in C++ computes what onnxruntime computes in Python, and ends with one sentence on bad input.

It needs a compiler and onnxruntime's header, which no Python package has: Debian's `libonnxruntime-dev` and onnxruntime's release
archives do. ONNXRUNTIME_INCLUDE names the folder of `onnxruntime_c_api.h` where it isn't a usual one.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from dyncompress.recipe.bundled_files import runner_file
from tests.deployment.graphs import images, residual

PLACES = ("/usr/include/onnxruntime", "/usr/local/include/onnxruntime", "/usr/include/onnxruntime/core/session")
SOURCE = runner_file().with_name("cpp") / "main.cpp"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled example, linked with the library of the Python package."""
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    folders = [folder for folder in (os.environ.get("ONNXRUNTIME_INCLUDE"), *PLACES) if folder]
    header = next((folder for folder in folders if (Path(folder) / "onnxruntime_c_api.h").is_file()), None)
    library = next(Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.*"), None)
    if compiler is None or header is None or library is None:
        pytest.skip(
            "needs a C++ compiler, onnxruntime_c_api.h (in $ONNXRUNTIME_INCLUDE) and libonnxruntime.so of the Python package"
        )
    folder = tmp_path_factory.mktemp("cpp")
    (folder / "libonnxruntime.so.1").symlink_to(library)
    words = [
        compiler,
        "-std=c++17",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-I",
        header,
        str(SOURCE),
        str(library),
        f"-Wl,-rpath,{folder}",
    ]
    done = subprocess.run([*words, "-o", str(folder / "runner")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "runner"


def run(program: Path, *words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(program), *map(str, words)], capture_output=True, text=True, check=False)


def numbers(text: str) -> np.ndarray:
    line = next(line for line in text.splitlines() if line.startswith("output"))
    return np.array(line.partition("]")[2].split(), np.float32)


def test_it_computes_what_python_computes(program: Path, tmp_path: Path) -> None:
    content, x = residual(4)[0], images(1)["x"]
    (tmp_path / "model.onnx").write_bytes(content)
    x.tofile(tmp_path / "x.bin")
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    for words, given in (([], np.zeros_like(x)), (["-", 3], np.zeros_like(x)), ([tmp_path / "x.bin", 3], x)):
        done = run(program, tmp_path / "model.onnx", *words)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("input x [1, 3, 16, 16]\noutput y [1, 5] ")
        assert f"median of {3 if words else 20} runs: " in done.stdout
        np.testing.assert_allclose(numbers(done.stdout), np.asarray(session.run(None, {"x": given})[0])[0], rtol=1e-5, atol=1e-6)


def test_bad_input_ends_with_one_sentence(program: Path, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(residual(4)[0])
    (tmp_path / "text.onnx").write_text("no model")
    for count, name in ((10, "short.bin"), (10_000, "long.bin")):
        np.zeros(count, np.float32).tofile(tmp_path / name)
    model = tmp_path / "model.onnx"
    wrong = [
        ([], "usage"),
        ([tmp_path / "absent.onnx"], "exist"),
        ([tmp_path / "text.onnx"], "failed"),
        ([model, tmp_path / "absent.bin"], "can't be read"),
        ([model, tmp_path / "short.bin"], "too few numbers"),
        ([model, tmp_path / "long.bin"], "more numbers"),
        ([model, "-", "none"], "RUNS is 'none'"),
    ]
    for words, says in wrong:
        done = run(program, *words)
        assert (done.returncode, done.stdout.count("output")) == (2, 0)
        assert says in done.stderr and done.stderr.startswith("error: ")


def test_the_example_travels_with_the_package() -> None:
    assert SOURCE.is_file() and SOURCE.with_name("CMakeLists.txt").is_file()
