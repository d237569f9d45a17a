"""Saving a file with its certificate, or a directory of all results, all or nothing; `verify` finds the certificate."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import dyncompress as dc
from dyncompress import cli
from dyncompress.recipe.profile_file import load_profile, profile_to_json
from dyncompress.reports import output_files
from tests import tiny

RESULTS = {"model.onnx", "plan.toml", "report.html"}


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


@pytest.fixture(scope="module")
def whole() -> dc.OnnxFile:
    """A file with profile, certificate, container and float file."""
    file = dc.compress(
        tiny.network(), "packed", target=tiny.TARGET, calibration=tiny.CALIBRATION, held_out=tiny.HELD_OUT, keep_float=True
    )
    assert file.packed and file.certificate is not None and file.profile is not None
    return file


# ---------------------------------------------------------------- one file
def test_a_saved_file_verifies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tiny.certified_file()
    path = file.save(tmp_path / "small.onnx")
    assert path == tmp_path / "small.onnx" and path.read_bytes() == file.content
    assert names(tmp_path) == {"small.onnx", "small.certificate.json"}
    assert cli.main(["verify", str(path)]) == 0
    assert str(file.certificate) in capsys.readouterr().out
    assert dc.verify(str(path)).statement == str(file.certificate)


def test_files_of_one_folder_keep_their_own_certificates(tmp_path: Path, whole: dc.OnnxFile) -> None:
    tiny.certified_file().save(tmp_path / "a.onnx")
    whole.save(tmp_path / "b.onnx")
    whole.save(tmp_path / "b.dync")
    for name, file in (("a.onnx", tiny.certified_file()), ("b.onnx", whole), ("b.dync", whole)):
        assert dc.verify(tmp_path / name).digests == file.certificate.digests


def test_the_certificate_of_the_directory_is_read_if_the_file_has_none(tmp_path: Path) -> None:
    file = tiny.certified_file()
    file.save(tmp_path)
    (tmp_path / "model.onnx").rename(tmp_path / "renamed.onnx")
    assert dc.verify(tmp_path / "renamed.onnx").statement == str(file.certificate)
    (tmp_path / "certificate.json").unlink()
    with pytest.raises(dc.InvalidRequest, match=r"neither renamed\.certificate\.json nor certificate\.json lies beside it"):
        dc.verify(tmp_path / "renamed.onnx")


def test_overwriting_a_file_replaces_its_certificate(tmp_path: Path) -> None:
    tiny.certified_file().save(tmp_path / "small.onnx")
    tiny.file().save(tmp_path / "small.onnx")
    assert names(tmp_path) == {"small.onnx"}


def test_saving_a_container_needs_a_container(tmp_path: Path) -> None:
    with pytest.raises(dc.InvalidRequest, match="no container"):
        tiny.file().save(tmp_path / "small.dync")
    assert not names(tmp_path)


def test_a_file_that_cannot_be_written_leaves_no_certificate(tmp_path: Path) -> None:
    (tmp_path / "small.certificate.json").mkdir()
    with pytest.raises(dc.InvalidRequest, match="nothing was written"):
        tiny.certified_file().save(tmp_path / "small.onnx")
    assert names(tmp_path) == {"small.certificate.json"}


# ---------------------------------------------------------------- a directory
@pytest.mark.parametrize("name", ["there", "new", "deep/new.folder/"])
def test_a_directory_gets_all_results(name: str, tmp_path: Path, whole: dc.OnnxFile) -> None:
    (tmp_path / "there").mkdir()
    path = whole.save(f"{tmp_path}/{name}")
    assert path == tmp_path / name / "model.onnx"
    assert names(path.parent) == RESULTS | {"certificate.json", "model.dync", "profile.json", "model.float32.onnx"}
    assert names(path.parent) == set(output_files.RESULTS)
    assert (path.parent / "model.dync").read_bytes() == whole.packed
    assert (path.parent / "model.float32.onnx").read_bytes() == whole.float_body
    again = profile_to_json(load_profile(path.parent / "profile.json"))
    assert json.loads(again) == json.loads(profile_to_json(whole.profile))  # some numbers come back as floats
    assert dc.verify(path).statement == str(whole.certificate)
    assert dc.compress(tiny.network(), plan=path.with_name("plan.toml"), calibration=tiny.CALIBRATION).body == whole.body


def test_a_directory_keeps_nothing_of_another_file(tmp_path: Path, whole: dc.OnnxFile) -> None:
    whole.save(tmp_path)
    (tmp_path / "mine.txt").write_text("the user's own")
    replace(tiny.file(), plan=replace(tiny.file().plan, digest="of other weights")).save(tmp_path)
    assert names(tmp_path) == RESULTS | {"mine.txt"}


def test_a_profile_of_the_same_weights_stays(tmp_path: Path, whole: dc.OnnxFile) -> None:
    whole.save(tmp_path)
    tiny.file().save(tmp_path)
    assert names(tmp_path) == RESULTS | {"profile.json"}


def test_a_directory_is_written_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: dc.OnnxFile) -> None:
    tiny.file().save(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    (tmp_path / "certificate.json").mkdir()
    with pytest.raises(dc.InvalidRequest, match="nothing was written"):
        whole.save(tmp_path)
    (tmp_path / "certificate.json").rmdir()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_command_line_and_save_write_the_same_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: dc.OnnxFile, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("dyncompress.cli.demo.run", lambda *_: (whole, None, None))
    assert cli.main(["demo", "--out", str(tmp_path / "command"), "--json", "--quiet"]) == 0
    paths = json.loads(capsys.readouterr().out)["paths"]
    whole.save(tmp_path / "saved")
    assert set(paths) == names(tmp_path / "saved")
    for path in (tmp_path / "command").iterdir():
        assert path.read_bytes() == (tmp_path / "saved" / path.name).read_bytes()


# ---------------------------------------------------------------- what a file carries
def test_the_float_file_is_kept_only_on_request(whole: dc.OnnxFile) -> None:
    assert len(whole.float_body) == whole.float_bytes
    again = dc.compress(tiny.network(), plan=whole.plan, calibration=tiny.CALIBRATION)
    assert again.float_body == b"" and again.profile is None
    assert output_files.FLOAT_MODEL not in repr(whole) and len(repr(whole)) < 400


def test_a_changed_file_keeps_its_measurements(whole: dc.OnnxFile) -> None:
    assert replace(whole, notes=()).profile is whole.profile
