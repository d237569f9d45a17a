"""The README's table: the shipped recipes on the pretrained CIFAR ResNets, judged on all 10 000 test images.

Calibration is the first 1 024 training images without labels. Latency is the median of interleaved rounds in one process, one
thread. Run: `DYNCOMPRESS_DATA=... python -m benchmarks.resnets [--net resnet20] [--rows a b c d e]`
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np

import dyncompress as dc
from dyncompress import deployment
from tests.data import cifar10, resnet20, resnet44

RESULTS = Path(__file__).parent / "results"
TARGET = "onnxruntime-x86-vnni"
ROWS = {
    "a": ("edge-int8", {}),
    "b": ("edge-int4", {}),
    "c": ("smallest", {"budget.bytes": 0.125}),
    "d": ("narrow", {"budget.macs": 0.6}),
    "e": ("certified", {"budget.risk_increase": 0.02}),
}


def outputs(file: bytes, x: np.ndarray) -> np.ndarray:
    """Scores of all images under onnxruntime."""
    return deployment.Session(file, dc.load_target(TARGET)).run({"x": x})[0]


def judged(scores: np.ndarray, reference: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """Accuracy, its drop, agreement, all in per cent."""
    right, before = scores.argmax(1) == y, reference.argmax(1) == y
    drop = before.astype(float) - right
    half = 1.96 * drop.std() / np.sqrt(len(drop))
    return {
        "accuracy": 100 * right.mean(),
        "drop": 100 * drop.mean(),
        "drop_low": 100 * (drop.mean() - half),
        "drop_high": 100 * (drop.mean() + half),
        "agreement": 100 * (scores.argmax(1) == reference.argmax(1)).mean(),
    }


def main() -> None:
    """Run the rows, print them, write the JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--net", default="resnet20", choices=["resnet20", "resnet44"])
    parser.add_argument("--rows", nargs="*", default=list(ROWS))
    args = parser.parse_args()
    model = {"resnet20": resnet20, "resnet44": resnet44}[args.net]()
    calibration = cifar10("train", 1024)[0].numpy()
    x, y = (t.numpy() for t in cifar10("test"))
    float_file = float_onnx(model, calibration)
    reference = outputs(float_file, x)
    accuracy = 100 * float((reference.argmax(1) == y).mean())
    result = {"net": args.net, "float": {"bytes": len(float_file), "accuracy": accuracy}, "rows": {}}
    files = {"float32": float_file}
    for row in args.rows:
        name, overrides = ROWS[row]
        recipe = dc.load_recipe(name, overrides)
        began = time.perf_counter()
        held_out = (x[:5000], y[:5000]) if row == "e" else None
        file = dc.compress(model, recipe, target=TARGET, calibration=calibration, held_out=held_out)
        seconds = time.perf_counter() - began
        files[row] = file.content
        scores = outputs(file.content, x)
        part = slice(5000, None) if row == "e" else slice(None)
        result["rows"][row] = {
            "recipe": name,
            "bytes": len(file.content),
            "bytes_percent": 100 * len(file.content) / len(float_file),
            "payload_ratio": 4 * sum(int(np.prod(s)) for s in file.plan.shapes.values()) / file.sizes.payload,
            "macs_percent": 100 * file.macs[1] / file.macs[0],
            "seconds": seconds,
            "fused": {k: list(v) for k, v in file.fused.items()},
            "left_alone": dict(file.plan.share_left_alone),
            **judged(scores[part], reference[part], y[part]),
        }
        if file.certificate is not None:
            result["rows"][row]["certificate"] = file.certificate.statement
        print(row, json.dumps(result["rows"][row], default=float), flush=True)
    for batch in (1, 16):
        timed = deployment.compare(files, {"x": x[:batch]}, dc.load_target(TARGET), rounds=300 if batch == 1 else 100)
        result[f"batch_{batch}"] = {name: asdict(t) for name, t in timed.items()}
        for name, t in timed.items():
            print(f"batch {batch:2d} {name:8s} {1e3 * t.median:.3f} ms, {1 / t.relative:.2f}x", flush=True)
    result["environment"] = deployment.environment()
    path = RESULTS / f"{args.net}.json"
    path.write_text(json.dumps(result, indent=1, default=float) + "\n")
    print(f"wrote {path.name}", file=sys.stderr)


def float_onnx(model: object, calibration: np.ndarray) -> bytes:
    """The float32 file, exported and stripped as the library does."""
    from dyncompress.models.torch import open_model

    door = open_model(model, {"x": calibration[:2]})
    return door.to_onnx({"x": calibration[:2]})[0]


if __name__ == "__main__":
    main()
