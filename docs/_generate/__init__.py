"""Pages that are written from the code: the API, the command line, what can be plugged in, the examples, READMEs of folders."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from _generate import api, command_line, examples, plugins, readmes

__all__ = ["pages", "write_all"]


def pages(docs: Path) -> Mapping[str, str]:
    """Path below `docs/generated` -> the page's text."""
    return {**api.pages(), **command_line.pages(), **plugins.pages(), **examples.pages(docs), **readmes.pages(docs)}


def write_all(docs: Path) -> None:
    """Write every page whose text has changed, so that an incremental build reads only those again."""
    folder = docs / "generated"
    made = {folder / name: text for name, text in pages(docs).items()}
    for old in set(folder.rglob("*.md")) - set(made):
        old.unlink()
    for path, text in made.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
