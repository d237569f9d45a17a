"""The notebooks are made of the scripts, and run from the first cell to the last."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from tests.examples.comparison import differences
from tests.examples.test_scripts import QUICK, needed_by
from tools.run_examples import OUTPUTS, ROOT, SCRIPTS

REASON = 'making and running notebooks needs pip install "dyncompress[examples]"'
nbformat = pytest.importorskip("nbformat", reason=REASON)
nbclient = pytest.importorskip("nbclient", reason=REASON)
pytest.importorskip("ipykernel", reason=REASON)
pytest.importorskip("jupytext", reason=REASON)
make_notebooks = importlib.import_module("tools.make_notebooks")  # imports jupytext


def test_the_notebooks_are_current() -> None:
    assert make_notebooks.outdated() == []


def test_a_changed_script_is_noticed_and_its_notebook_written_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "examples" / "01_title.py"
    script.parent.mkdir()
    script.write_text("# %% [markdown]\n# # Title\n\n# %%\nprint(1)\n")
    monkeypatch.setattr(make_notebooks, "ROOT", tmp_path)
    monkeypatch.setattr(make_notebooks, "SCRIPTS", [script])
    monkeypatch.setattr(make_notebooks, "NOTEBOOKS", script.parent / "notebooks")
    assert make_notebooks.main(["--check"]) == 1
    assert make_notebooks.main([]) == 0 and make_notebooks.main(["--check"]) == 0
    script.write_text(script.read_text() + "print(2)\n")
    (script.parent / "notebooks" / "02_gone.ipynb").write_text("{}")
    assert make_notebooks.outdated() == ["01_title.ipynb", "02_gone.ipynb"]
    assert make_notebooks.main([]) == 0 and make_notebooks.outdated() == []


@pytest.mark.parametrize(
    "script", [pytest.param(path, id=path.stem, marks=() if path.stem == min(QUICK) else pytest.mark.slow) for path in SCRIPTS]
)
def test_a_notebook_runs_and_prints_what_its_script_prints(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needed_by(script)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(make_notebooks.NOTEBOOKS / f"{script.stem}.ipynb", as_version=nbformat.NO_CONVERT)
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    printed = "".join(output.text for output in outputs if output.get("name") == "stdout")
    assert differences(printed, (OUTPUTS / f"{script.stem}.txt").read_text(encoding="utf-8")) == []
