"""The share of ONNX's own node tests that the interpreter of ONNX files passes.

    python -m benchmarks.onnx_operators

Writes `benchmarks/results/onnx_operators.json`: the shares, and each case that fails with its reason.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

from tests.models.onnx.backend import cases, differs, operators
from tests.models.onnx.test_backend_nodes import USED

RESULT = Path(__file__).parent / "results" / "onnx_operators.json"


def main() -> None:
    """Run all cases, print the shares and write the result."""
    failures = {case.name: reason for case in cases() if (reason := differs(case))}
    used = [case.name for case in cases() if set(operators(case.model.graph)) <= USED]
    groups = {"all cases": [case.name for case in cases()], "operators in use": used}
    narrow = {name for name, reason in failures.items() if "no element type" in reason}
    groups["operators in use, of element types that torch has"] = [name for name in used if name not in narrow]
    shares = {}
    for group, names in groups.items():
        passed = sum(name not in failures for name in names)
        shares[group] = {"cases": len(names), "passed": passed, "share": round(passed / len(names), 4)}
        print(f"{group}: {passed} of {len(names)}, {100 * passed / len(names):.1f} %")
    result = {"onnx": version("onnx"), "torch": version("torch"), "shares": shares, "failures": dict(sorted(failures.items()))}
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
