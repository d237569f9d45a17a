"""The files that a result is written to: a directory of all of them, or one file with its certificate beside it."""

from __future__ import annotations

import os
from pathlib import Path

from dyncompress.coding.whole_files import deliver
from dyncompress.deployment.certificate_file import CERTIFICATE, certificate_beside
from dyncompress.errors import InvalidRequest
from dyncompress.types import OnnxFile

MODEL, CONTAINER, FLOAT_MODEL = "model.onnx", "model.dync", "model.float32.onnx"
PLAN, PROFILE, REPORT = "plan.toml", "profile.json", "report.html"
RESULTS = (PROFILE, PLAN, REPORT, FLOAT_MODEL, CERTIFICATE, CONTAINER, MODEL)  # all that a run may write, in this order


def save(file: OnnxFile, path: str | Path) -> Path:
    """Write one file with its certificate beside it, or a directory; see `OnnxFile.save`."""
    if names_directory(path):
        return write_directory(file, Path(path))[MODEL]
    return write_file(file, Path(path))


def names_directory(path: str | Path) -> bool:
    """Whether a path is a directory's: one that exists, or that ends in a separator or has no suffix.

    Example:
        >>> names_directory("no-such-folder/"), names_directory("no-such-folder"), names_directory("small.onnx")
        (True, True, False)
    """
    ends = tuple(filter(None, (os.sep, os.altsep)))
    return str(path).endswith(ends) or Path(path).is_dir() or not Path(path).suffix


def write_directory(file: OnnxFile, directory: Path, profile_text: str | None = None) -> dict[str, Path]:
    """Write all results, and remove what an earlier run left there that this one doesn't have.

    Args:
        file: finished, certified or not.
        directory: made if it isn't there.
        profile_text: of `profile.json`; None: the profile that the file carries, if it does.

    Returns:
        name -> path, `model.onnx` last.

    Raises:
        InvalidRequest: the directory can't be written; nothing was.
    """
    from dyncompress.certificates.stored import to_json
    from dyncompress.recipe.plan_file import plan_to_toml
    from dyncompress.recipe.profile_file import profile_to_json
    from dyncompress.reports import page

    if profile_text is None and file.profile is not None:
        profile_text = profile_to_json(file.profile)
    files: dict[str, bytes | str | None] = {
        PROFILE: profile_text,
        PLAN: plan_to_toml(file.plan),
        REPORT: page(file),
        FLOAT_MODEL: file.float_body or None,
        CERTIFICATE: None if file.certificate is None else to_json(file.certificate),
        CONTAINER: file.packed or None,
        MODEL: file.content,
    }
    there = {name: content for name, content in files.items() if content is not None}
    stale = files.keys() - there.keys()
    return deliver(directory, there, stale=stale - {PROFILE} if _profile_serves(directory, file.plan.digest) else stale)


def _profile_serves(directory: Path, digest: str) -> bool:
    """Whether the profile that lies in a directory is of these weights, so that other plans can come from it."""
    from dyncompress.recipe.profile_file import profile_from_json

    try:
        return (directory / PROFILE).is_file() and profile_from_json(directory / PROFILE).digest == digest
    except InvalidRequest:
        return False


def write_file(file: OnnxFile, path: Path) -> Path:
    """Write one file, its container where the name ends in `.dync`, and its certificate beside it.

    Raises:
        InvalidRequest: no container was made, or the directory can't be written; nothing was.
    """
    container = path.suffix == ".dync"
    if container and not file.packed:
        raise InvalidRequest(f"{path}: this file has no container; save it as .onnx, and run `dyncompress pack` on that.")
    content, beside = file.packed if container else file.content, certificate_beside(path).name
    if file.certificate is None:  # a certificate there is of the file that is overwritten, or of another form of it, which stays
        return deliver(path.parent, {path.name: content}, stale=(beside,) if path.is_file() else ())[path.name]
    from dyncompress.certificates.stored import to_json

    return deliver(path.parent, {beside: to_json(file.certificate), path.name: content})[path.name]
