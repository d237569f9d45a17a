"""The recipe `certified` on ResNet-20, with the first 5 000 test images as held-out data; evaluated on the other 5 000.

Run: `DYNCOMPRESS_DATA=... python -m benchmarks.certified`
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import dyncompress as dc
from benchmarks.judging import TARGET, float_onnx, judged, outputs
from dyncompress import deployment
from tests.data import cifar10, resnet20

RESULT = Path(__file__).parent / "results" / "certified.json"
HELD_OUT = 5_000
RISK_INCREASE = 0.02


def main() -> None:
    """Run the recipe, print the result and write the JSON."""
    model, calibration = resnet20(), cifar10("train", 1024)[0].numpy()
    x, y = (t.numpy() for t in cifar10("test"))
    float_file = float_onnx(model, calibration)
    began = time.perf_counter()
    file = dc.compress(
        model,
        dc.load_recipe("certified", {"budget.risk_increase": RISK_INCREASE}),
        target=TARGET,
        calibration=calibration,
        held_out=(x[:HELD_OUT], y[:HELD_OUT]),
    )
    seconds = time.perf_counter() - began
    rest = slice(HELD_OUT, None)
    found = {
        "net": "resnet20",
        "risk_increase": RISK_INCREASE,
        "bytes": len(file.content),
        "bytes_percent": 100 * len(file.content) / len(float_file),
        "seconds": seconds,
        "certificate": file.certificate.statement if file.certificate is not None else "",
        **judged(outputs(file.content, x[rest]), outputs(float_file, x[rest]), y[rest]),
        "environment": deployment.environment(),
    }
    RESULT.write_text(json.dumps(found, indent=1, default=float) + "\n")
    print(json.dumps(found, indent=1, default=float))
    print(f"wrote {RESULT.name}", file=sys.stderr)


if __name__ == "__main__":
    main()
