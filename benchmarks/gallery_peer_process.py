"""Functions of NNCF, OpenVINO and jax2onnx, for the interpreter of a separate environment without torch and this library.

The process reads pickled requests `(function, arguments)` from its standard input, and writes a pickled reply `(verdict, value)`
for each to its standard output, until the input ends. What the tools print goes to its standard error.
"""

from __future__ import annotations

import os
import pickle
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Call = Mapping[str, np.ndarray]  # the inputs of one run, as the file takes them
FLOATS = "f32"  # the precision of what isn't quantized; bf16, the default on some processors, was half as fast on a ResNet-20
WARM_RUNS = 2  # untimed runs before a timed one
COMPILED: dict[str, Any] = {}  # name -> a model that OpenVINO has compiled


def settings_of(calls: Sequence[Call], half_range: bool) -> dict[str, Any]:
    """The settings of `nncf.quantize`; with `half_range` all weights have 7 bits, for processors whose sums saturate."""
    import nncf

    exact = nncf.AdvancedQuantizationParameters(overflow_fix=nncf.OverflowFix.ENABLE) if half_range else None
    return {"subset_size": len(calls), "advanced_parameters": exact}


def quantize_onnx(content: bytes, calls: Sequence[Call], half_range: bool = False) -> dict[str, Any]:
    """`nncf.quantize` of an ONNX file, with the settings of its documentation.

    Args:
        content: the float file.
        calls: the calibration examples.
        half_range: see `settings_of`.

    Returns:
        `files` by ending, `seconds`, `cpu_seconds` and `more`, further values of the cell.
    """
    import nncf
    import onnx

    model = onnx.load_from_string(content)
    wall, cpu = time.perf_counter(), time.process_time()
    made = nncf.quantize(model, nncf.Dataset(list(calls)), **settings_of(calls, half_range))
    seconds = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
    return {"files": {".onnx": made.SerializeToString()}, **seconds, "more": {"version": nncf.__version__}}


def quantize_openvino(content: bytes, calls: Sequence[Call], half_range: bool = False) -> dict[str, Any]:
    """`openvino.convert_model` of an ONNX file, `nncf.quantize` of the result, and `openvino.save_model`; as `quantize_onnx`."""
    import nncf
    import openvino

    with tempfile.TemporaryDirectory() as folder:
        first, last = Path(folder) / "float.onnx", Path(folder) / "int8.xml"
        first.write_bytes(content)
        wall, cpu = time.perf_counter(), time.process_time()
        made = nncf.quantize(openvino.convert_model(first), nncf.Dataset(list(calls)), **settings_of(calls, half_range))
        openvino.save_model(made, last)
        seconds = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
        files = {".xml": last.read_bytes(), ".bin": last.with_suffix(".bin").read_bytes()}
    more = {"version": f"openvino {openvino.__version__}, nncf {nncf.__version__}", "precision": FLOATS}
    return {"files": files, **seconds, "more": more}


def load(name: str, files: Mapping[str, bytes]) -> None:
    """Compile a model for one thread of the CPU, and keep it under a name."""
    import openvino

    core = openvino.Core()
    model = core.read_model(model=files[".xml"], weights=files[".bin"])
    settings = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": FLOATS}
    COMPILED[name] = core.compile_model(model, "CPU", settings)


def run(name: str, call: Call) -> list[np.ndarray]:
    """The outputs of a model, in its order."""
    compiled = COMPILED[name]
    found = compiled(dict(call))
    return [np.array(found[output]) for output in compiled.outputs]


def seconds_of_run(name: str, call: Call) -> float:
    """The wall seconds of one run, after `WARM_RUNS` others."""
    for _ in range(WARM_RUNS):
        run(name, call)
    began = time.perf_counter()
    run(name, call)
    return time.perf_counter() - began


def jax_network(images: np.ndarray, labels: np.ndarray, steps: int) -> dict[str, Any]:
    """Train a convolutional network in JAX, and export it with jax2onnx.

    Args:
        images: `[n, height, width, channels]`.
        labels: `[n]`, of ten classes.
        steps: of gradient descent with momentum, on 64 examples each.

    Returns:
        `content`, the ONNX file, and `version`, of JAX and jax2onnx.
    """
    from importlib.metadata import version

    import jax
    import jax.numpy as jnp
    from jax2onnx import to_onnx

    axes = ("NHWC", "HWIO", "NHWC")
    draw = np.random.default_rng(0)
    shapes = [(3, 3, images.shape[-1], 16), (3, 3, 16, 32), (3, 3, 32, 32), (32, 10)]
    weights = [jnp.asarray(draw.normal(size=s) * np.sqrt(2 / np.prod(s[:-1])), jnp.float32) for s in shapes]
    parameters = [(weight, jnp.zeros(weight.shape[-1])) for weight in weights]

    def network(parameters: Any, x: Any) -> Any:
        for (weight, bias), stride in zip(parameters[:-1], (2, 2, 1), strict=True):
            x = jax.nn.relu(jax.lax.conv_general_dilated(x, weight, (stride, stride), "SAME", dimension_numbers=axes) + bias)
        return x.mean((1, 2)) @ parameters[-1][0] + parameters[-1][1]

    def loss(parameters: Any, x: Any, y: Any) -> Any:
        return -jnp.take_along_axis(jax.nn.log_softmax(network(parameters, x)), y[:, None], 1).mean()

    @jax.jit
    def step(parameters: Any, velocity: Any, x: Any, y: Any) -> Any:
        gradient = jax.grad(loss)(parameters, x, y)
        velocity = jax.tree.map(lambda v, g: 0.9 * v + g, velocity, gradient)
        return jax.tree.map(lambda p, v: p - 0.1 * v, parameters, velocity), velocity

    velocity = jax.tree.map(jnp.zeros_like, parameters)
    for _ in range(steps):
        rows = draw.choice(len(images), 64, replace=False)
        parameters, velocity = step(parameters, velocity, images[rows], labels[rows])
    model = to_onnx(lambda x: network(parameters, x), [("B", *images.shape[1:])])
    return {"content": model.SerializeToString(), "version": f"jax {jax.__version__}, jax2onnx {version('jax2onnx')}"}


FUNCTIONS: dict[str, Callable[..., Any]] = {
    function.__name__: function for function in (quantize_onnx, quantize_openvino, load, run, seconds_of_run, jax_network)
}


def main() -> None:
    """Answer requests until the input ends."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # so that what the tools print doesn't end up among the replies
    while True:
        try:
            name, arguments = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            reply = ("ok", FUNCTIONS[name](**arguments))
        except Exception as error:
            reply = ("failed", f"{type(error).__name__}: {' '.join(str(error).split())}")  # OpenVINO's reason is on a later line
        pickle.dump(reply, replies, protocol=5)
        replies.flush()


if __name__ == "__main__":
    main()
