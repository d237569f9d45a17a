"""Each script in `examples/` runs and prints what is committed in `docs/examples/`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.examples.comparison import differences
from tools.run_examples import OUTPUTS, SCRIPTS, printed_by

QUICK = {"01_quickstart"}
SPOKEN = "04_keyword_spotting"


def needed_by(script: Path) -> None:
    """Skip the test where a package that the script imports isn't installed, or its recordings aren't here."""
    text = script.read_text(encoding="utf-8")
    for package in ("sklearn", "transformers"):
        if f"from {package}" in text:
            pytest.importorskip(package, reason=f"{script.name} imports {package}")
    folder = os.environ.get("DYNCOMPRESS_DATA")
    if script.stem == SPOKEN and not (folder and (Path(folder) / "fsdd_wav.zip").is_file()):
        pytest.skip("the committed output is of real recordings: set DYNCOMPRESS_DATA to the folder that holds fsdd_wav.zip")


@pytest.mark.parametrize(
    "script", [pytest.param(path, id=path.stem, marks=() if path.stem in QUICK else pytest.mark.slow) for path in SCRIPTS]
)
def test_a_script_prints_what_is_committed(script: Path) -> None:
    needed_by(script)
    committed = (OUTPUTS / f"{script.stem}.txt").read_text(encoding="utf-8")
    assert differences(printed_by(script), committed) == []


@pytest.mark.slow
def test_keyword_spotting_makes_tones_where_there_are_no_recordings() -> None:
    script = next(path for path in SCRIPTS if path.stem == SPOKEN)
    environment = {name: value for name, value in os.environ.items() if name != "DYNCOMPRESS_DATA"}
    printed = printed_by(script, environment)
    assert "data: synthetic tones" in printed and "With confidence 95 %" in printed


def test_every_script_has_its_output_and_no_output_lacks_its_script() -> None:
    assert len(SCRIPTS) == 8
    assert {path.stem for path in OUTPUTS.glob("*.txt")} == {script.stem for script in SCRIPTS}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_scripts_are_short_and_open_with_a_title(script: Path) -> None:
    text = script.read_text(encoding="utf-8")
    assert text.startswith("# %% [markdown]\n# # ") and "torch.manual_seed(" in text
    code = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    assert 30 <= len(code) <= 80
