"""27 architectures with random weights, compressed with `edge-int8`, exported and compared with torch.

Each row also states which share of the network was left alone, and why.

Run: `python -m benchmarks.architectures [NAME ...]`
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import numpy as np
import torch

import dyncompress as dc
from benchmarks.judging import RESULTS, TARGET
from benchmarks.zoo import ZOO, build


def batches(example: dict[str, torch.Tensor], count: int = 4) -> list[dict[str, torch.Tensor]]:
    """Random batches of the example's shape: integers are permuted, floats are drawn again."""
    generator = torch.Generator().manual_seed(0)

    def like(value: torch.Tensor) -> torch.Tensor:
        if value.is_floating_point():
            return torch.randn(value.shape, generator=generator)
        return value.flatten()[torch.randperm(value.numel(), generator=generator)].reshape(value.shape)

    return [example, *({name: like(value) for name, value in example.items()} for _ in range(count - 1))]


def row(name: str) -> dict[str, object]:
    """The results of one architecture."""
    model, example = build(name)
    began = time.perf_counter()
    file = dc.compress(model, "edge-int8", target=TARGET, calibration=batches(example))
    return {
        "architecture": name,
        "weights": sum(int(np.prod(shape)) for shape in file.plan.shapes.values()),
        "weights_left_alone": file.plan.share_left_alone["weights"],
        "macs_left_alone": file.plan.share_left_alone["macs"],
        "reasons": sorted(set(file.plan.reasons.values())),
        "bytes_percent": 100 * len(file.content) / file.float_bytes,
        "float_error": file.parity.float_error,
        "relative_error": file.parity.relative_error,
        "fused": {op: list(count) for op, count in file.fused.items()},
        "seconds": time.perf_counter() - began,
    }


def main() -> None:
    """Print and write all rows."""
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*", default=list(ZOO))
    names = parser.parse_args().names
    rows = []
    for name in names:
        rows.append(row(name))
        r = rows[-1]
        print(
            f"{name:18s} {r['weights']:9,d} weights, "
            f"{100 * r['weights_left_alone']:5.1f} % left alone, {r['bytes_percent']:5.1f} % of the bytes, "
            f"relative error {r['relative_error']:.3f}, float graph {r['float_error']:.1e}, {r['fused']} {r['reasons']}",
            flush=True,
        )
    alone = [r["weights_left_alone"] for r in rows]
    print(f"{len(rows)} architectures, median share of weights left alone {100 * statistics.median(alone):.1f} %")
    if set(names) == set(ZOO):
        (RESULTS / "architectures.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
