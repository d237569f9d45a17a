"""NNCF's static quantization of an ONNX file, for the interpreter of a separate environment.

`python nncf_peer.py FLOAT.onnx CALIBRATION.npy OUT.onnx [--preset mixed] [--accurate]` prints one line of JSON. It needs
nncf, onnx and onnxruntime, and neither torch nor this library.
"""

from __future__ import annotations

import argparse
import json
import sys
import time

import nncf
import numpy as np
import onnx


def main() -> None:
    """Quantize the file, write it, and print the seconds."""
    parser = argparse.ArgumentParser()
    for name in ("float_file", "calibration", "out"):
        parser.add_argument(name)
    parser.add_argument("--preset", choices=["performance", "mixed"], default="performance")
    parser.add_argument("--accurate", action="store_true", help="use accurate instead of fast bias correction")
    args = parser.parse_args()
    images = np.load(args.calibration)
    model = onnx.load(args.float_file)
    name = model.graph.input[0].name
    dataset = nncf.Dataset([images[i : i + 1] for i in range(len(images))], lambda x: {name: x})
    wall, cpu = time.perf_counter(), time.process_time()
    made = nncf.quantize(
        model,
        dataset,
        preset=nncf.QuantizationPreset(args.preset),
        subset_size=len(images),
        fast_bias_correction=not args.accurate,
    )
    seconds = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
    onnx.save(made, args.out)
    json.dump({**seconds, "version": nncf.__version__}, sys.stdout)


if __name__ == "__main__":
    main()
