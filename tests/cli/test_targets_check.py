"""`dyncompress targets check MODEL.onnx`: its table, its JSON, its exit codes, and arguments that don't fit together."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dyncompress import cli
from tests.deployment import faulty_files as files


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    """Run a command; returns its exit code, standard output and standard error."""
    code = cli.main([str(word) for word in words])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture
def good(tmp_path: Path) -> Path:
    """A file with quantized activations, which x86 runs on integer kernels."""
    path = tmp_path / "good.onnx"
    path.write_bytes(files.chain().SerializeToString())
    return path


def test_a_file_without_findings_ends_with_code_0(good: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "targets", "check", good)
    assert (code, err) == (0, "")
    assert "for target 'onnxruntime-x86-vnni', by rules, and as onnxruntime" in out
    assert "findings: 0" in out
    assert "100 % of the multiply-accumulates run on integer kernels; activations are quantized." in out


def test_a_refused_file_ends_with_code_1_and_names_the_node(good: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "targets", "check", good, "--target", "tensorrt")
    assert (code, err) == (1, "")
    assert any(line.split()[:3] == ["refused", "q_x_q", "QuantizeLinear"] for line in out.splitlines())
    assert "by rules alone" in out


def test_findings_that_refuse_nothing_end_with_code_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "slow.onnx"
    path.write_bytes(files.weight_only().SerializeToString())
    code, out, _ = run(capsys, "targets", "check", path)
    assert code == 0
    assert any(line.split()[:3] == ["slow", "c", "Conv"] for line in out.splitlines())


def test_json_holds_findings_and_precision(good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "targets", "check", good, "--target", "stm32", "--json")
    data = json.loads(out)
    assert code == 1
    assert (data["file"], data["target"], data["refused"], data["loaded_by"]) == (str(good), "stm32", True, "")
    assert {"severity", "place", "operator", "sentence"} == data["findings"][0].keys()
    assert data["precision"]["stored_bytes"]["int8"] == 2 * 8 * 8 * 9
    empty = tmp_path / "empty.onnx"
    empty.write_bytes(files.string_output().SerializeToString())
    assert json.loads(run(capsys, "targets", "check", empty, "--json")[1])["precision"]["integer_share"] is None


def test_a_target_of_ones_own(good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    board = tmp_path / "board.toml"
    board.write_text('name = "board"\nsummary = ""\nverified = "schema"\nmax_model_bytes = 100\n')
    code, out, _ = run(capsys, "targets", "check", good, "--target", board)
    assert code == 1
    assert "'board' takes 100" in out


def test_weights_in_another_file_are_a_finding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "split.onnx"
    path.write_bytes(files.external().SerializeToString())
    code, out, _ = run(capsys, "targets", "check", path)
    assert code == 1
    assert "weights.bin" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["targets", "check", "absent.onnx"], "there is no such file"),
        (["targets", "check", "text.onnx"], "no ONNX file"),
        (["targets", "check", "text.onnx", "text.onnx"], "name one ONNX file"),
        (["targets", "check", "text.onnx", "--target", "no-such"], "no such target"),
        (["targets", "check", "--target", "stm32"], "name the ONNX file"),
        (["targets", "list", "--target", "stm32"], "name the ONNX file"),
        (["targets", "check", "board.toml"], "element_types"),
        (["targets", "show", "text.onnx", "--target", "stm32"], "name the ONNX file"),
    ],
)
def test_a_wrong_argument_ends_with_one_sentence_and_code_2(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.onnx").write_text("a text")
    Path("board.toml").write_text('name = "board"\nsummary = ""\nverified = "schema"\nelement_types = ["int9"]\n')
    code, out, err = run(capsys, *words)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
