"""Docstrings are text with `code` in it, not reStructuredText: markup is escaped, and classes are found by their short names."""

from __future__ import annotations

import re
from typing import Any

CODE = re.compile(r"(`[^`]*`)")


def connect(app: Any) -> None:
    """Before napoleon reads a docstring, escape it; where a reference is missing, look for the name on its own."""
    app.connect("autodoc-process-docstring", escape_lines, priority=100)
    app.connect("missing-reference", by_last_name)


def escape_lines(app: Any, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """Escape stars, bars and trailing underscores outside of code spans and doctests."""
    spans = CODE.split("\n".join(lines))
    text = "".join(span if number % 2 else escape(span) for number, span in enumerate(spans))
    lines[:] = text.split("\n")


def escape(text: str) -> str:
    """The text without markup; lines of a doctest stay as they are."""
    return "\n".join(line if ">>>" in line else re.sub(r"([*|])|(?<=\w)(_)(?!\w)", r"\\\1\2", line) for line in text.split("\n"))


def by_last_name(app: Any, env: Any, node: Any, content: Any) -> Any:
    """A class is documented where users import it from; annotations name the module that it is written in."""
    target = str(node.get("reftarget", ""))
    if not target.startswith("dyncompress."):
        return None
    last = target.rpartition(".")[2]
    domain = env.get_domain("py")
    for name in (f"dyncompress.{last}", f"dyncompress.types.{last}"):
        if name in domain.objects and name != target:
            return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", name, node, content)
    return None
