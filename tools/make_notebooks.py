"""Makes `examples/notebooks/*.ipynb` from the scripts in `examples/`, by jupytext.

    python tools/make_notebooks.py           # write them
    python tools/make_notebooks.py --check   # exit code 1 where one isn't what its script would give

Notebooks hold no outputs and no random identifiers, so that the same script always gives the same bytes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import jupytext
import nbformat

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = sorted((ROOT / "examples").glob("[0-9]*.py"))
NOTEBOOKS = ROOT / "examples" / "notebooks"
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def notebook_of(script: Path) -> str:
    """The text of a script's notebook."""
    notebook = jupytext.read(script, fmt="py:percent")
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL, "language_info": {"name": "python"}})
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for number, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"cell-{number}", nbformat.from_dict({})
    nbformat.validate(notebook)
    return nbformat.writes(notebook, version=nbformat.NO_CONVERT) + "\n"


def outdated() -> list[str]:
    """Names of the files in `examples/notebooks` that are missing, differ from their script's notebook, or have no script."""
    wanted = {f"{script.stem}.ipynb": notebook_of(script) for script in SCRIPTS}
    found = {path.name: path.read_text(encoding="utf-8") for path in NOTEBOOKS.glob("*.ipynb")}
    return sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))


def main(words: Sequence[str] | None = None) -> int:
    """Write the notebooks, or tell which ones aren't current."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 where a notebook isn't current")
    check, changed = parser.parse_args(words).check, outdated()
    for name in changed:
        print(f"examples/notebooks/{name} {'is not current: run tools/make_notebooks.py' if check else 'written'}")
    if check:
        return 1 if changed else 0
    NOTEBOOKS.mkdir(parents=True, exist_ok=True)
    for path in (NOTEBOOKS / name for name in changed):
        script = ROOT / "examples" / f"{path.stem}.py"
        if script.is_file():
            path.write_text(notebook_of(script), encoding="utf-8")
        else:
            path.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
