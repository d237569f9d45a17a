"""One page with every script of `examples/` and what it printed."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from pathlib import Path

HEAD = """# Examples

Scripts that run as they are from a checkout: `python examples/NAME.py`. Each is shown with what it printed.
"""


def pages(docs: Path) -> Mapping[str, str]:
    """The page over whatever scripts exist."""
    scripts = sorted((docs.parent / "examples").glob("[0-9]*.py"))
    lines = [line for script in scripts for line in section(docs, script)]
    return {"examples.md": "\n".join([HEAD, *lines])}


def section(docs: Path, script: Path) -> Iterable[str]:
    """Title from the script's docstring, the script, and its committed output."""
    text = ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or script.stem
    yield from [f"## {script.stem}", "", text.split("\n\n")[0], ""]
    yield from [f"```{{literalinclude}} ../../examples/{script.name}", ":language: python", "```", ""]
    output = docs / "examples" / f"{script.stem}.txt"
    if output.exists():
        yield from ["It prints:", "", f"```{{literalinclude}} ../examples/{output.name}", ":language: text", "```", ""]
