"""Where methods of values call the packages above: saving a file, and what a notebook shows.

The values lie at the bottom of the package and import nothing of it. These few methods are the exception, kept in one place; what
they need is imported when they are called.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dyncompress.types.file import OnnxFile


def save(file: OnnxFile, path: str | Path) -> Path:
    """See `OnnxFile.save`."""
    from dyncompress.reports import output_files

    return output_files.save(file, path)


def html(value: Any) -> str:
    """What a notebook shows of a value: a fragment of HTML, without scripts."""
    from dyncompress.reports.notebook import fragment

    return fragment(value)
