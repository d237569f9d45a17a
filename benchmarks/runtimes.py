"""The same int8 network in onnxruntime, OpenVINO and LiteRT: bytes, difference of the outputs, and milliseconds of a run.

Each runtime gets the file that is made for it: the target is onnxruntime's for this processor, `openvino`, or `litert`, whose
file is converted. The difference is the largest one from onnxruntime that computes the same ONNX file node by node, as ONNX
defines it, divided by the range of its outputs, over 64 examples. Times are of one example on one thread, the median of
interleaved runs; that of the float file in onnxruntime is for comparison. Each runtime is called in its own way, with arrays.
`load` is the system's load average: other processes make OpenVINO slower than the other two.

    python -m benchmarks.runtimes            # writes benchmarks/results/runtimes.json
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import ai_edge_litert
import numpy as np
import onnxruntime
import openvino
import torch
from ai_edge_litert.interpreter import Interpreter
from torch import Tensor, nn

import dyncompress as dc
from benchmarks.gallery_export import onnx_file
from dyncompress import deployment
from dyncompress.deployment.conversion.comparison import as_defined
from dyncompress.deployment.conversion.litert import litert_file
from dyncompress.deployment.session import saturates
from tests.data import cifar10, resnet20

RESULT = Path(__file__).parent / "results" / "runtimes.json"
EXAMPLES, ROUNDS, WARM_UP = 64, 400, 20
Run = Callable[[np.ndarray], np.ndarray]


class Keyword(nn.Module):
    """Separable convolutions over time, for 40 mel bands of a second: 40 000 weights."""

    def __init__(self, width: int = 96, blocks: int = 4) -> None:
        """Build the layers."""
        super().__init__()
        parts: list[nn.Module] = [nn.Conv1d(40, width, 9, stride=2, padding=4), nn.BatchNorm1d(width), nn.ReLU()]
        for _ in range(blocks):
            parts += [
                nn.Conv1d(width, width, 9, padding=4, groups=width),
                nn.Conv1d(width, width, 1),
                nn.BatchNorm1d(width),
                nn.ReLU(),
            ]
        self.body, self.head = nn.Sequential(*parts), nn.Linear(width, 12)

    def forward(self, x: Tensor) -> Tensor:
        """Scores of words."""
        return self.head(self.body(x).mean(2))


def perceptron() -> nn.Module:
    """Four linear layers for 784 pixels: 670 000 weights."""
    return nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))


def networks() -> dict[str, tuple[nn.Module, Tensor]]:
    """Name -> network and calibration examples; those without trained weights get normal inputs."""
    torch.manual_seed(0)
    return {
        "ResNet-20": (resnet20(), cifar10("train", 256)[0]),
        "keyword net": (Keyword().eval(), torch.randn(256, 40, 98)),
        "perceptron": (perceptron().eval(), torch.randn(256, 784)),
    }


def in_onnxruntime(content: bytes, target: str) -> Run:
    """A function that runs an ONNX file on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    for key, value in dc.load_target(target).session.items():
        options.add_session_config_entry(key, value)
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: np.asarray(session.run(None, {name: x})[0])


def in_openvino(content: bytes) -> Run:
    """A function that runs an ONNX file on one thread of OpenVINO, for one example at a time."""
    core = openvino.Core()
    model = core.read_model(content)
    model.reshape([1, *list(model.inputs[0].partial_shape)[1:]])
    settings = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    return lambda x: np.array(request.infer([x])[0])


def in_litert(content: bytes) -> Run:
    """A function that runs a LiteRT file on one thread."""
    interpreter = Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    source, result = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

    def run(x: np.ndarray) -> np.ndarray:
        interpreter.set_tensor(source, x)
        interpreter.invoke()
        return interpreter.get_tensor(result)

    return run


def difference(run: Run, content: bytes, x: np.ndarray) -> float:
    """The largest difference from the ONNX file as it is defined, as a share of the range of its outputs."""
    session = as_defined(content)
    wanted = np.asarray(session.run(None, {session.get_inputs()[0].name: x})[0])
    found = np.concatenate([run(x[i : i + 1]) for i in range(len(x))])
    return float(np.abs(found - wanted).max() / np.ptp(wanted))


def milliseconds(runs: dict[str, Run], x: np.ndarray) -> dict[str, float]:
    """The median time of a run of each, in interleaved rounds."""
    seen: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(WARM_UP + ROUNDS):
        for name, run in runs.items():
            start = time.perf_counter()
            run(x)
            if number >= WARM_UP:
                seen[name].append(time.perf_counter() - start)
    return {name: round(1000 * median(times), 4) for name, times in seen.items()}


def row(module: nn.Module, calibration: Tensor) -> dict[str, Any]:
    """All figures of one network."""
    own = "onnxruntime-x86-avx2" if saturates() else "onnxruntime-x86-vnni"
    files = {
        target: dc.compress(module, "edge-int8", target=target, calibration=calibration).content
        for target in (own, "openvino", "litert")
    }
    converted = litert_file(files["litert"])
    x = calibration[:EXAMPLES].numpy()
    float_file = onnx_file(module, {"x": torch.zeros(2, *x.shape[1:])}, "scores", {"x": {0: "n"}})
    runs = {
        "onnxruntime, float": in_onnxruntime(float_file, own),
        "onnxruntime": in_onnxruntime(files[own], own),
        "OpenVINO": in_openvino(files["openvino"]),
        "LiteRT": in_litert(converted),
    }
    times = milliseconds(runs, x[:1])
    sources = {
        "onnxruntime, float": float_file,
        "onnxruntime": files[own],
        "OpenVINO": files["openvino"],
        "LiteRT": files["litert"],
    }
    return {
        name: {
            "bytes": len(converted) if name == "LiteRT" else len(sources[name]),
            "onnx_bytes": len(sources[name]),
            "difference": round(difference(run, sources[name], x), 6),
            "milliseconds": times[name],
        }
        for name, run in runs.items()
    }


def main() -> None:
    """Measure, print and write the JSON."""
    result: dict[str, Any] = {}
    for name, (module, calibration) in networks().items():
        result[name] = row(module, calibration)
        for runtime, seen in result[name].items():
            print(
                f"{name:12s} {runtime:20s} {seen['bytes']:8d} bytes {seen['difference']:9.2%} {seen['milliseconds']:8.3f} ms",
                flush=True,
            )
    versions = {"openvino": openvino.__version__, "litert": ai_edge_litert.__version__, "processor": deployment.processor()}
    result["environment"] = {
        **deployment.environment(),
        **versions,
        "threads": 1,
        "rounds": ROUNDS,
        "load": round(os.getloadavg()[0], 1),
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
