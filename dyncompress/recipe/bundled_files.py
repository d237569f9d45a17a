"""Where the files that travel with the library lie: inside an installed package, else beside it in a checkout."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
PLACES = (PACKAGE / "_shipped", PACKAGE.parent)  # a wheel carries them inside; a checkout has them at its top


def recipe_files() -> dict[str, Path]:
    """Name -> file of every recipe that comes with the library, sorted."""
    return _named("recipes")


def target_files() -> dict[str, Path]:
    """Name -> file of every hardware profile that comes with the library, sorted."""
    return _named("export/targets")


def prior_files() -> dict[str, Path]:
    """Name -> file of every prior on sensitivities that comes with the library, sorted."""
    return _named("recipes/priors")


def runner_file() -> Path:
    """The runner that goes to the device: onnxruntime and numpy only."""
    found = [place / "export/runner/runner.py" for place in PLACES]
    return next((path for path in found if path.is_file()), found[-1])


def _named(folder: str) -> dict[str, Path]:
    place = next((place / folder for place in PLACES if (place / folder).is_dir()), None)
    return {} if place is None else {path.stem: path for path in sorted(place.glob("*.toml"))}
