"""Trajectory files: what is written is read back, and everything else is refused with a message."""

from __future__ import annotations

import zipfile
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from dyncompress.errors import InvalidRequest
from dyncompress.recording import TrajectoryWriter, load_trajectory, trajectory_file


@pytest.fixture
def writer() -> TrajectoryWriter:
    generator = np.random.default_rng(0)
    writer = TrajectoryWriter(seed=3, sketch=8, learning_rate=0.01, batch_size=32)
    for step in range(5):
        conv, fc, slope = (generator.standard_normal(shape) for shape in ((4, 2, 3, 3), (3, 4), (3, 4)))
        weights = {"layer/1.conv ö": conv, "fc": fc}
        writer.append(step, weights, step, gradients={"fc": slope}, losses_per_example=generator.random(6))
    writer.notes.append("a note ö")
    return writer


def test_what_is_written_is_read_back(writer: TrajectoryWriter, tmp_path: Path) -> None:
    saved = writer.save(tmp_path / "run.npz")
    old, new = writer.trajectory(), load_trajectory(saved)
    for field in fields(old):
        if field.name not in ("motion", "sketches", "gradients"):
            assert np.array_equal(getattr(old, field.name), getattr(new, field.name)), field.name
    assert list(old.motion) == list(new.motion) == list(new.sketches)
    for name, motion in old.motion.items():
        assert np.array_equal(old.sketches[name], new.sketches[name])
        assert np.array_equal(old.gradients[name], new.gradients[name], equal_nan=True)
        for part in ("mean", "variance", "increment_variance", "count"):
            assert np.array_equal(getattr(motion, part), getattr(new.motion[name], part))
    assert [path.name for path in tmp_path.iterdir()] == ["run.npz"]


def test_no_suffix_is_added_to_a_path(writer: TrajectoryWriter, tmp_path: Path) -> None:
    assert writer.save(str(tmp_path / "run")) == tmp_path / "run"
    assert load_trajectory(str(tmp_path / "run")).seed == 3


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_refused(writer: TrajectoryWriter, tmp_path: Path, share: float) -> None:
    content = writer.save(tmp_path / "run.npz").read_bytes()
    (tmp_path / "run.npz").write_bytes(content[: int(share * len(content))])
    with pytest.raises(InvalidRequest, match=r"run\.npz' is truncated or no trajectory"):
        load_trajectory(tmp_path / "run.npz")


def test_a_flipped_byte_is_refused(writer: TrajectoryWriter, tmp_path: Path) -> None:
    path = writer.save(tmp_path / "run.npz")
    content = bytearray(path.read_bytes())
    mean = load_trajectory(path).motion["fc"].mean.tobytes()
    content[content.index(mean) + 5] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(InvalidRequest, match="truncated or no trajectory"):
        load_trajectory(path)


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", x=np.ones(3))
    np.save(tmp_path / "array.npy", np.ones(3))
    (tmp_path / "text.npz").write_text("steps, losses\n")
    np.savez(tmp_path / "pickled.npz", format=np.array({"a": 1}, dtype=object))
    with zipfile.ZipFile(tmp_path / "zip.npz", "w") as archive:
        archive.writestr("format.npy", b"nonsense")
    for name in ("other.npz", "array.npy", "text.npz", "pickled.npz", "zip.npz"):
        with pytest.raises(InvalidRequest, match="no trajectory"):
            load_trajectory(tmp_path / name)
    with pytest.raises(InvalidRequest, match="does not exist"):
        load_trajectory(tmp_path / "missing.npz")
    with pytest.raises(InvalidRequest, match="is a directory"):
        load_trajectory(tmp_path)


def test_arrays_that_do_not_belong_together_are_refused(writer: TrajectoryWriter, tmp_path: Path) -> None:
    path = writer.save(tmp_path / "run.npz")
    with np.load(path) as file:
        arrays = {key: file[key] for key in file.files}
    for key in ("losses", "losses_per_example", "1.gradient"):
        np.savez(path, **{**arrays, key: arrays[key][:-1]})
        with pytest.raises(InvalidRequest, match="don't belong together"):
            load_trajectory(path)


def test_a_file_of_the_first_version_is_read(tmp_path: Path) -> None:
    writer = TrajectoryWriter()
    writer.append(0, {"fc": np.ones((2, 3))})
    path = writer.save(tmp_path / "run.npz")
    with np.load(path) as file:
        arrays = {key: file[key] for key in file.files if key != "notes"}
    np.savez(path, **arrays)
    trajectory = load_trajectory(path)
    assert (trajectory.gradients, trajectory.losses_per_example, trajectory.notes) == ({}, None, ())


def test_what_cannot_be_written_leaves_nothing_behind(
    writer: TrajectoryWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = writer.save(tmp_path / "run.npz")
    good = path.read_bytes()

    def full(file: object, **arrays: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(trajectory_file.np, "savez", full)
    with pytest.raises(InvalidRequest, match="No space left on device"):
        writer.save(path)
    assert path.read_bytes() == good
    assert [p.name for p in tmp_path.iterdir()] == ["run.npz"]
    with pytest.raises(InvalidRequest, match="can't be written"):
        writer.save(tmp_path / "no" / "folder.npz")
