"""Where the certificate of an ONNX file lies."""

from __future__ import annotations

from pathlib import Path

CERTIFICATE = "certificate.json"  # in a directory of results
BESIDE = ".certificate.json"  # takes the place of a file's suffix, so that certificates of several files don't clash


def certificate_beside(path: Path) -> Path:
    """Where the certificate of a single file lies.

    Example:
        >>> certificate_beside(Path("out/small.onnx")).name
        'small.certificate.json'
    """
    return path.with_name(path.stem + BESIDE)
