"""Paths of the files that come with the library: inside an installed package, or beside the package in a checkout."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dyncompress.errors import InvalidRequest, nearest
from dyncompress.recipe.text_files import is_file, read_text, toml

PACKAGE = Path(__file__).resolve().parents[1]
FOLDERS = (PACKAGE / "_shipped", PACKAGE.parent)  # in an installed wheel, in a checkout


def recipe_files() -> dict[str, Path]:
    """Name -> path of every recipe that comes with the library, sorted by name."""
    return _toml_files("recipes")


def target_files() -> dict[str, Path]:
    """Name -> path of every target (hardware profile) that comes with the library, sorted by name."""
    return _toml_files("export/targets")


def prior_files() -> dict[str, Path]:
    """Name -> path of every prior on sensitivities that comes with the library, sorted by name."""
    return _toml_files("recipes/priors")


def runner_file() -> Path:
    """The path of the runner, a script for the device that needs onnxruntime and numpy alone."""
    paths = [folder / "export/runner/runner.py" for folder in FOLDERS]
    return next((path for path in paths if path.is_file()), paths[-1])


def load_table(source: str | Path, shipped: Mapping[str, Path], what: str) -> tuple[dict[str, Any], str]:
    """The table of a TOML file, and the file's name for messages.

    Args:
        source: a name among `shipped`, or the path of a file.
        shipped: name -> path, of the files that come with the library.
        what: `recipe`, `target` or `prior`, for messages.

    Raises:
        InvalidRequest: there is no such file, or it isn't TOML.
    """
    path = Path(source)
    if str(source) in shipped:
        path = shipped[str(source)]
    elif path.suffix != ".toml" and not is_file(path, f"{what} '{source}'"):
        raise InvalidRequest(f"{what} '{source}': there is no such {what}{nearest(str(source), shipped)}")
    return toml(read_text(path, f"{what} '{source}'"), str(path)), path.name


def _toml_files(name: str) -> dict[str, Path]:
    """Stem -> path of the TOML files in a folder of that name; empty if there is no such folder."""
    folder = next((folder / name for folder in FOLDERS if (folder / name).is_dir()), None)
    return {} if folder is None else {path.stem: path for path in sorted(folder.glob("*.toml"))}
