"""What is generated says what the code and the results say, and every page is within reach."""

from __future__ import annotations

import os
import re
import sys
from importlib import import_module
from pathlib import Path

import pytest

import dyncompress
from dyncompress import types

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"

pytestmark = pytest.mark.skipif(not (DOCS / "conf.py").is_file(), reason="docs/ isn't here; it is in a checkout")


@pytest.fixture(scope="module")
def generated() -> dict[str, str]:
    """Path below `docs/generated` -> text."""
    sys.path.insert(0, str(DOCS))
    try:
        return dict(import_module("_generate").pages(DOCS))
    finally:
        sys.path.remove(str(DOCS))


def test_every_public_name_is_on_a_page_of_the_reference(generated: dict[str, str]) -> None:
    text = "\n".join(text for name, text in generated.items() if name.startswith("api/"))
    documented = set(re.findall(r"^\.\. auto\w+:: ([\w.]+)$", text, re.MULTILINE))
    assert {f"dyncompress.{name}" for name in dyncompress.__all__} <= documented
    rest = set(types.__all__) - set(dyncompress.__all__)
    assert {f"dyncompress.types.{name}" for name in rest} <= documented


def test_every_command_and_option_is_on_its_page(generated: dict[str, str]) -> None:
    command_line = import_module("_generate.command_line")
    page = generated["cli.md"]
    for name, command in command_line.subparsers(command_line.parser()).items():
        assert f"## dyncompress {name}\n" in page
        section = page.partition(f"## dyncompress {name}\n")[2].partition("\n## ")[0]
        for action in command._actions:
            if action.dest not in ("help", "json", "quiet"):
                assert all(f"`{option}" in section for option in action.option_strings)
    assert "%(default)s" not in page


def test_everything_that_recipes_can_name_is_listed(generated: dict[str, str]) -> None:
    from dyncompress.certificates import BOUNDS
    from dyncompress.measures import MEASURES
    from dyncompress.quantization import QUANTIZERS

    for name in (*MEASURES, *QUANTIZERS, *BOUNDS):
        assert f"| `{name}` |" in generated["plugins.md"]


def test_links_of_a_readme_are_seen_from_its_new_place(generated: dict[str, str]) -> None:
    folder = DOCS / "generated"
    for name in ("recipes.md", "benchmarks.md", "contributing.md", "changelog.md"):
        for target in re.findall(r"\]\(([^)#\s:]+)[)#]", generated[name]):
            assert Path(os.path.normpath(folder / target)).exists() or target in generated, (name, target)


def test_the_examples_page_shows_every_script(generated: dict[str, str]) -> None:
    scripts = sorted((ROOT / "examples").glob("[0-9]*.py"))
    assert all(f"\n`{script.name}`" in generated["examples.md"] for script in scripts)


def test_tables_of_results_are_up_to_date() -> None:
    readme = pytest.importorskip("benchmarks.readme")
    assert readme.stale() == [], "run `python -m benchmarks.readme`"
    frontier_tables = pytest.importorskip("benchmarks.frontier_tables")
    assert frontier_tables.up_to_date(), "run `python -m benchmarks.frontier --render`"


def test_the_picture_is_of_these_results() -> None:
    picture = pytest.importorskip("benchmarks.readme_picture")
    assert picture.digest() in picture.PICTURE.read_text(), "run `python -m benchmarks.readme_picture`"


def test_the_readme_is_short_and_its_table_too() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 120
    table = text.partition("<!-- headline -->\n")[2].partition("<!-- /headline -->")[0]
    assert 0 < sum(line.startswith("|") for line in table.splitlines()) - 2 <= 8


def test_links_of_the_readme_lead_somewhere() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    missing = [target for target in re.findall(r"\]\(([^)#\s:]+)[)#]", text) if not (ROOT / target).exists()]
    assert missing == []


def test_formulas_are_drawn_without_a_script(generated: dict[str, str]) -> None:
    pytest.importorskip("latex2mathml", reason='needs the extra `docs`: pip install -e ".[docs]"')
    pytest.importorskip("docutils")
    mathml = import_module("_generate.mathml")
    text = mathml.convert(mathml.SIZES.sub("", r"\Bigl\{ x_i^2 : \big| x \big| \le 1 \Bigr\}"))
    assert text.startswith("<math") and "\\" not in text
