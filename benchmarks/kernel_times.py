"""Times of onnxruntime's convolutions in float and on integers, and the kernel times of a target that are fitted to them.

    python -m benchmarks.kernel_times          # measure what is missing, and print the fitted table for a target's TOML file

Each cell is one convolution, alone in a graph, on one thread: the time of its kernel in onnxruntime's profile (the second decile
of its runs), and those of the nodes that bring its input and output into the layouts that it needs. The model that is fitted is
`dyncompress.types.KernelTimes`; its coefficients aren't negative, and relative errors count. The times of an element are those
of one tensor; a border counts its QuantizeLinear or DequantizeLinear, the change of layout on the integer side, and half of the
one on the float side, which is there only beside a convolution.
"""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from onnx import NodeProto, helper, numpy_helper
from scipy.optimize import nnls

from benchmarks import cells
from dyncompress import deployment

RESULTS = Path(__file__).with_name("results") / "kernel_times.json"
RUNS, SKIPPED = 25, 3
CHANNELS, KERNELS, SIZES = (3, 8, 16, 24, 48, 96, 192), (1, 3, 5), ((1, 1), (6, 24), (24, 80), (48, 160))
LARGEST = 1.2e9  # MACs
BLOCK = 16
NODE = helper.make_node


def cases() -> dict[str, tuple[int, int, int, int, int]]:
    """Key -> channels, kernel, groups, height and width."""
    found = {}
    for channels, kernel, (height, width) in itertools.product(CHANNELS, KERNELS, SIZES):
        for depthwise in (False, True):
            small = height == 1 and (kernel > 1 or depthwise)
            if small or (depthwise and (kernel == 1 or channels == 3)):
                continue
            if not depthwise and channels**2 * kernel**2 * height * width > LARGEST:
                continue
            name = f"{channels} channels, kernel {kernel}, {height} x {width}{', depthwise' * depthwise}"
            found[name] = (channels, kernel, channels if depthwise else 1, height, width)
    return found


ELEMENTS, SHAPE = "elements", (1, 96, 24, 80)


def elements() -> cells.Cell:
    """Microseconds of elementwise nodes and of the nodes at a border, on one tensor."""
    draw = np.random.default_rng(0)
    scales = {"s": np.float32(0.05), "z": np.uint8(100)}
    quantized = [NODE("DequantizeLinear", ["x", "s", "z"], [name]) for name in ("a", "b")]
    x, codes = draw.normal(size=SHAPE).astype(np.float32), draw.integers(0, 255, SHAPE).astype(np.uint8)
    nodes = {
        "float": ([NODE("Mul", ["x", "x"], ["y"])], x),
        "integers": ([*quantized, NODE("Mul", ["a", "b"], ["c"]), NODE("QuantizeLinear", ["c", "s", "z"], ["y"])], codes),
        "border": ([NODE("QuantizeLinear", ["x", "s", "z"], ["q"]), NODE("DequantizeLinear", ["q", "s", "z"], ["y"])], x),
    }
    return {name: times_of(graph, scales, given, SHAPE) for name, (graph, given) in nodes.items()}


def element_times(found: Mapping[str, cells.Cell]) -> dict[str, float]:
    """The coefficients of elementwise nodes, which read two tensors, and of borders, in nanoseconds."""
    count, own, layouts = float(np.prod(SHAPE)), found[ELEMENTS], found["96 channels, kernel 1, 24 x 80"]
    moved = layouts["integers"]["Transpose"]
    ends = {"quantize": ("QuantizeLinear", "ReorderOutput"), "dequantize": ("DequantizeLinear", "ReorderInput")}
    borders = {name: own["border"][op] + moved + layouts["float"][reorder] / 2 for name, (op, reorder) in ends.items()}
    nodes = {"float_element": own["float"]["Mul"] / 2, "integer_element": own["integers"]["QLinearMul"] / 2}
    return {name: 1e3 * value / count for name, value in {**nodes, **borders}.items()}


def measured(key: str) -> cells.Cell:
    """The times of one convolution, or of elementwise nodes, in microseconds."""
    if key == ELEMENTS:
        return elements()
    channels, kernel, groups, height, width = cases()[key]
    out, pad = max(channels, 16) if channels == 3 else channels, kernel // 2
    shape, draw = (1, channels, height, width), np.random.default_rng(0)
    attributes = {"pads": [pad] * 4, "group": groups, "kernel_shape": [kernel] * 2}
    weight = draw.normal(size=(out, channels // groups, kernel, kernel)).astype(np.float32)
    floats = times_of(
        [NODE("Conv", ["x", "w", "b"], ["y"], **attributes)],
        {"w": weight, "b": np.zeros(out, np.float32)},
        draw.normal(size=shape).astype(np.float32),
        (1, out, height, width),
    )
    constants = {
        **{"sx": np.float32(0.05), "zx": np.uint8(100), "so": np.float32(0.1), "zo": np.uint8(120)},
        **{"w": draw.integers(-127, 127, weight.shape).astype(np.int8), "sw": np.full(out, 0.01, np.float32)},
        **{"zw": np.zeros(out, np.int8), "b": np.zeros(out, np.int32), "sb": np.full(out, 5e-4, np.float32)},
        "zb": np.zeros(out, np.int32),
    }
    nodes = [
        NODE("DequantizeLinear", ["x", "sx", "zx"], ["x1"]),
        NODE("DequantizeLinear", ["w", "sw", "zw"], ["w1"], axis=0),
        NODE("DequantizeLinear", ["b", "sb", "zb"], ["b1"], axis=0),
        NODE("Conv", ["x1", "w1", "b1"], ["y1"], **attributes),
        NODE("QuantizeLinear", ["y1", "so", "zo"], ["y"]),
    ]
    integers = times_of(nodes, constants, draw.integers(0, 255, shape).astype(np.uint8), (1, out, height, width))
    return {
        **dict(zip(("channels", "kernel", "groups", "height", "width"), cases()[key], strict=True)),
        **{"out": out, "float": floats, "integers": integers, "environment": deployment.environment()},
        "processor": deployment.processor(),
    }


def times_of(
    nodes: Sequence[NodeProto], constants: Mapping[str, object], x: np.ndarray, shape: tuple[int, ...]
) -> dict[str, float]:
    """Operator -> microseconds of its kernel in one run of a graph; input and output have the same type."""
    kind = helper.np_dtype_to_tensor_dtype(x.dtype)
    ends = [helper.make_tensor_value_info(name, kind, size) for name, size in (("x", x.shape), ("y", shape))]
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(list(nodes), "kernel", ends[:1], ends[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 4
        options.enable_profiling, options.profile_file_prefix = True, f"{folder}/profile"
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        for _ in range(RUNS):
            session.run(None, {"x": x})
        events = json.loads(Path(session.end_profiling()).read_text())
    found: dict[str, list[float]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("kernel_time"):
            found.setdefault(event["args"]["op_name"], []).append(event["dur"])
    return {name: float(np.quantile(values[SKIPPED:], 0.2)) for name, values in found.items()}


def up(number: int, multiple: int) -> int:
    """The number rounded up to a multiple."""
    return -(-number // multiple) * multiple


def features(cell: cells.Cell) -> dict[str, tuple[list[float], float, tuple[str, ...]]]:
    """Form -> the terms of the model, the measured nanoseconds, and the names of the coefficients."""
    n, taps, c, out = cell["height"] * cell["width"], cell["kernel"] ** 2, cell["channels"], cell["out"]
    kernel = {form: 1e3 * next(v for k, v in cell[form].items() if "Conv" in k) for form in ("float", "integers")}
    off = c % BLOCK > 0
    if cell["groups"] > 1:
        terms = [1, n * c, n * taps * c, n * taps * c * off, n * taps]
        names = ("integer_node", "depthwise_output", "depthwise_mac", "depthwise_unaligned", "depthwise_tap")
        return {"depthwise": (terms, kernel["integers"], names)}
    width = up(c, BLOCK) if c >= BLOCK else 2 * c
    return {
        "float": (
            [1, n * taps * width * up(out, BLOCK), n * up(out, BLOCK)],
            kernel["float"],
            ("float_node", "float_mac", "float_output"),
        ),
        "integer": (
            [1, n, n * taps, n * taps * off, n * taps * up(c, 4) * up(out, BLOCK)],
            kernel["integers"],
            ("integer_node", "integer_position", "integer_tap", "integer_unaligned", "integer_mac"),
        ),
    }


def table(found: Mapping[str, cells.Cell]) -> str:
    """The fitted coefficients as TOML, with the typical relative error of each form."""
    forms: dict[str, list] = {}
    for cell in (cell for key, cell in found.items() if key != ELEMENTS):
        for form, row in features(cell).items():
            forms.setdefault(form, []).append(row)
    lines = ["[kernel_times]  # nanoseconds"]
    for form, rows in forms.items():
        terms, wanted = np.array([row[0] for row in rows], float), np.array([row[1] for row in rows])
        coefficients, _ = nnls(terms / wanted[:, None], np.ones(len(wanted)))
        error = np.log(terms @ coefficients / wanted)
        lines.append(f"# {form}: {len(rows)} convolutions, typical error {100 * np.sqrt(np.mean(error**2)):.0f} %")
        lines += [f"{name} = {value:.2g}" for name, value in zip(rows[0][2], coefficients, strict=True)]
    return "\n".join([*lines, "# elements", *(f"{name} = {value:.2g}" for name, value in element_times(found).items())])


def told(key: str, cell: cells.Cell) -> str:
    """The line that is printed for a cell."""
    return f"{key}: {', '.join(f'{form} {cell[form]}' for form in ('float', 'integers', 'border') if form in cell)}"


if __name__ == "__main__":
    cells.script(__doc__, [ELEMENTS, *cases()], RESULTS, measured, told, table)
