"""The methods of values that need higher packages: saving a file, and showing a value as text or in a notebook.

All other modules of `types` import nothing from the rest of the package. The functions here import what they need when they are
called.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dyncompress.types.comparison import Comparison
    from dyncompress.types.file import OnnxFile


def save(file: OnnxFile, path: str | Path) -> Path:
    """Write an ONNX file with its results, see `OnnxFile.save`."""
    from dyncompress.reports import output_files

    return output_files.save(file, path)


def html(value: Any) -> str:
    """The HTML that a notebook shows for a value, without scripts."""
    from dyncompress.reports.notebook import fragment

    return fragment(value)


def table(comparison: Comparison) -> str:
    """The text of a comparison, see `Comparison.table`."""
    from dyncompress.reports.comparison import comparison_text

    return comparison_text(comparison)
