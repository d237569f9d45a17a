"""Pages that are READMEs of other folders: the same text, its links seen from `docs/generated`."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

SOURCES = {
    "recipes.md": "recipes/README.md",
    "benchmarks.md": "benchmarks/README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
}
LINK = re.compile(r"(?<=\]\()([^)#\s:]+)(?=[)#])")  # a relative target, up to its anchor


def pages(docs: Path) -> Mapping[str, str]:
    """Every README of `SOURCES` as a page."""
    return {name: moved(docs.parent / source, docs / "generated") for name, source in SOURCES.items()}


def moved(source: Path, folder: Path) -> str:
    """The text with every relative link rewritten so that it leads to the same file from `folder`.

    A link to a README that is a page itself leads to that page.
    """
    own = {(folder.parents[1] / text).resolve(): folder / name for name, text in SOURCES.items()}

    def target(link: re.Match[str]) -> str:
        file = (source.parent / link[1]).resolve()
        return Path(os.path.relpath(own.get(file, file), folder)).as_posix()

    return LINK.sub(target, source.read_text(encoding="utf-8"))
