"""One page with every script of `examples/` and what it printed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

MARKDOWN = re.compile(r"# %% \[markdown\]\n((?:#.*\n)+?)(?=\n|# %%)")  # the first cell of a script
HEAD = """# Examples

Scripts that run as they are from a checkout: `python examples/NAME.py`. Each is shown with what it printed.
"""


def pages(docs: Path) -> Mapping[str, str]:
    """The page over whatever scripts exist."""
    scripts = sorted((docs.parent / "examples").glob("[0-9]*.py"))
    lines = [line for script in scripts for line in section(docs, script)]
    return {"examples.md": "\n".join([HEAD, *lines])}


def section(docs: Path, script: Path) -> Iterable[str]:
    """Title and introduction of the script, the script, and its committed output."""
    title, text = heading(script.read_text(encoding="utf-8"))
    yield from [f"## {title or script.stem}", "", f"`{script.name}`. {text}".strip(), ""]
    yield from [f"```{{literalinclude}} ../../examples/{script.name}", ":language: python", "```", ""]
    output = docs / "examples" / f"{script.stem}.txt"
    if output.exists():
        yield from ["It prints:", "", f"```{{literalinclude}} ../examples/{output.name}", ":language: text", "```", ""]


def heading(code: str) -> tuple[str, str]:
    """The title and the first paragraph of a script that begins with a cell of Markdown in comments; else two empty texts."""
    found = MARKDOWN.match(code)
    lines = [line[2:] for line in (found[1] if found else "").splitlines()]
    title = lines[0].removeprefix("# ") if lines and lines[0].startswith("# ") else ""
    return title, " ".join(" ".join(lines[1:]).split())
