"""Integer ONNX files: writing them, running and timing them, and the seal that detects changes.

`seal` and `unseal` need only the standard library and are imported at once. The other names are imported on first use, so that
verifying a file needs no onnx, and checking a seal no onnxruntime.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from dyncompress.deployment.seal import is_sealed as is_sealed
from dyncompress.deployment.seal import seal as seal
from dyncompress.deployment.seal import unseal as unseal

_INDEX = {
    "strip": "stripping",
    "ranges": "activation_ranges",
    "write": "writer",
    "integer_file": "integer_form",
    "WORTH": "integer_form",
    "IntegerFile": "integer_form",
    "Calibration": "integer_form",
    "Comparison": "integer_form",
    "storage_bytes": "accounting",
    "byte_target": "accounting",
    "overhead": "accounting",
    "shapes_of_one": "faster_form",
    "packed_overhead": "accounting",
    "sizes": "accounting",
    "audit": "fusion",
    "check": "checks",
    "check_file": "target_check.check",
    "parity_of_outputs": "checks",
    "parity": "checks",
    "Session": "session",
    "concatenate_batches": "session",
    "quantizes_at_run": "session",
    "environment": "session",
    "matches_target": "session",
    "processor": "session",
    "processors": "session",
    "cannot_run_here": "session",
    "time_pair": "bench",
    "compare": "bench",
    "Timing": "bench",
}


def __getattr__(name: str) -> Any:
    """Load a public name on first use (PEP 562)."""
    if name not in _INDEX:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_INDEX[name]}"), name)
    globals()[name] = value
    return value
