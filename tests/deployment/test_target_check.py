"""Faults planted in small files, one at a time: each is found at its node, with its severity, and good files have none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from dyncompress.deployment import check_file
from dyncompress.deployment.target_check.graph import view
from dyncompress.deployment.target_check.precision import macs
from dyncompress.errors import InvalidRequest
from dyncompress.recipe.bundled_files import target_files
from dyncompress.recipe.toml_files import load_target
from dyncompress.types import Target
from tests.deployment import faulty_files as files
from tests.deployment.faulty_files import chain, conv, node

BOARD = Target("board", "", "schema")  # uint8 activations, any zero point, free axes; nothing is loaded here
RUNTIME = replace(BOARD, verified="runtime")  # the same, and onnxruntime here loads the file


@dataclass(frozen=True)
class Fault:
    """A planted fault: the file, the target, the severity and place of its finding, and words of its sentence."""

    build: Callable[[], onnx.ModelProto]
    target: Target
    severity: str
    place: str
    words: str


SYMMETRIC = replace(BOARD, activation_dtype="int8", activation_symmetric=True)
WHOLE = replace(BOARD, weight_bits=(8,))
NO_FOLDING = replace(BOARD, folds_constants=False)
NUMBERS = replace(BOARD, element_types=("float32", "int8", "uint8", "int32", "int64", "bool"))
POWERS = replace(BOARD, power_of_two_scales=True)
FAULTS: Mapping[str, Fault] = {
    "newer IR": Fault(files.newer_ir, BOARD, "refused", "(file)", "IR version 11"),
    "newer IR that onnxruntime here reads": Fault(files.newer_ir, RUNTIME, "note", "(file)", "IR version 11"),
    "newer opset": Fault(files.newer_opset, BOARD, "refused", "(file)", "opset 22"),
    "free batch": Fault(files.free_batch, replace(BOARD, static_shapes=True), "refused", "x", "Axis 0"),
    "asymmetric": Fault(lambda: chain(dtype=np.int8), SYMMETRIC, "refused", "q_x_q", "zero point is 3"),
    "scale off powers of two": Fault(files.odd_scale, POWERS, "refused", "dq_c1_W", "0.02"),
    "packed int4": Fault(lambda: files.int4_weight(cast=True), WHOLE, "refused", "c1_w", "whole bytes"),
    "int4 not among the types": Fault(lambda: files.int4_weight(cast=True), NUMBERS, "refused", "c1_w", "int4"),
    "int4 straight into Conv": Fault(files.int4_weight, BOARD, "slow", "c1", "Cast to int8"),
    "int4 straight into Conv, loaded": Fault(files.int4_weight, RUNTIME, "slow", "c1", "Cast to int8"),
    "weight-only": Fault(files.weight_only, BOARD, "slow", "c", "decoded to float32 at every run"),
    "weight-only, loaded": Fault(files.weight_only, RUNTIME, "slow", "c", "decoded to float32 at every run"),
    "bias scale": Fault(files.bias_scale_off, BOARD, "float", "c2", "by 2 %"),
    "bias scale, loaded": Fault(files.bias_scale_off, RUNTIME, "float", "c2", "by 2 %"),
    "float bias": Fault(files.float_bias, BOARD, "float", "c2", "bias isn't int32"),
    "signed activations of a product": Fault(lambda: files.residual(np.int8), BOARD, "float", "c2", "int8"),
    "signed activations of a sum": Fault(lambda: files.residual(np.int8), BOARD, "float", "sum", "int8"),
    "signed activations of a sum, loaded": Fault(lambda: files.residual(np.int8), RUNTIME, "float", "sum", "int8"),
    "16-bit activations": Fault(lambda: chain(dtype=np.uint16), BOARD, "float", "c1", "uint16"),
    "16-bit activations, loaded": Fault(lambda: chain(dtype=np.uint16), RUNTIME, "float", "c1", "uint16"),
    "ConvInteger": Fault(files.conv_integer, BOARD, "slow", "c", "statically"),
    "table": Fault(files.table_decoded_first, BOARD, "slow", "embed", "whole table"),
    "half at every run": Fault(files.half_weight, NO_FOLDING, "slow", "widen", "every run"),
    "half at load": Fault(files.half_weight, BOARD, "note", "widen", "memory isn't"),
    "unpacked at every run": Fault(files.unpacked_weight, NO_FOLDING, "slow", "c", "doesn't fold constants"),
    "saturating weights": Fault(files.eight_bit_weights, replace(BOARD, reduce_range=True), "note", "c1", "7 bits"),
    "float weight": Fault(files.float_weight, BOARD, "float", "c2", "its weight"),
    "float weight, loaded": Fault(files.float_weight, RUNTIME, "float", "c2", "its weight"),
    "float term": Fault(files.one_term_float, BOARD, "float", "sum", "both terms"),
    "float output": Fault(files.no_output_grid, BOARD, "float", "c1", "quantize its output"),
    "foreign domain": Fault(files.foreign, BOARD, "refused", "secret", "com.example"),
    "foreign domain, loaded": Fault(files.foreign, RUNTIME, "refused", "(file)", "com.example"),
    "scales of channels": Fault(chain, replace(BOARD, weight_granularity="tensor"), "refused", "dq_c1_W", "8 scales"),
    "too large": Fault(chain, replace(BOARD, max_model_bytes=1000), "refused", "(file)", "takes 1,000"),
    "odd channels": Fault(files.odd_channels, BOARD, "note", "c1", "output channels, 6, isn't a multiple of 8"),
    "computed scale": Fault(files.computed_scale, BOARD, "float", "q_x_q", "computes its scale"),
    "new operator": Fault(files.attention, BOARD, "refused", "attend", "since opset 23"),
    "refused operator": Fault(
        files.attention, replace(RUNTIME, refused_operators=("Attention",)), "refused", "attend", "doesn't run"
    ),
    "refused in a branch": Fault(
        files.loop_operator, replace(BOARD, refused_operators=("Tanh",)), "refused", "inner", "doesn't run"
    ),
    "external data": Fault(files.external, RUNTIME, "refused", "c2_w", "weights.bin"),
    "string": Fault(files.string_output, NUMBERS, "refused", "y", "string"),
    "sequence": Fault(files.sequence_output, NUMBERS, "refused", "y", "sequence"),
    "double": Fault(files.double_weight, BOARD, "slow", "w", "twice the bytes"),
    "double not among the types": Fault(files.double_weight, NUMBERS, "refused", "w", "float64"),
    "rank": Fault(files.high_rank, replace(BOARD, largest_rank=5), "refused", "fold", "6 axes"),
    "nothing quantized": Fault(files.odd_channels, BOARD, "float", "(file)", "products (2)"),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_planted_fault_is_found(fault: Fault) -> None:
    report = check_file(fault.build().SerializeToString(), fault.target)
    found = [(finding.severity, finding.place) for finding in report.findings if fault.words in finding.sentence]
    assert (fault.severity, fault.place) in found
    assert report.refused == any(finding.severity == "refused" for finding in report.findings)
    assert all(finding.sentence.endswith(".") for finding in report.findings)


GOOD: Mapping[str, tuple[Callable[[], onnx.ModelProto], Target]] = {
    "chain": (chain, BOARD),
    "chain, loaded": (chain, RUNTIME),
    "residual sum": (files.residual, BOARD),
    "residual sum, loaded": (files.residual, RUNTIME),
    "bias scale within 1 %": (files.bias_scale_nearly, BOARD),
    "symmetric": (lambda: chain(zero=0, dtype=np.int8), SYMMETRIC),
    "int4 behind a Cast": (lambda: files.int4_weight(cast=True), BOARD),
    "int4 behind a Cast, loaded": (lambda: files.int4_weight(cast=True), RUNTIME),
    "rows gathered first": (files.table_gathered_first, BOARD),
    "7-bit weights": (chain, replace(BOARD, reduce_range=True)),
    "16-bit activations with kernels": (lambda: chain(dtype=np.uint16), replace(BOARD, activation_types=("uint8", "uint16"))),
    "known domain": (lambda: files.foreign("com.microsoft"), replace(BOARD, operator_domains=("com.microsoft",))),
    "types that are read": (chain, NUMBERS),
    "float bias that onnxruntime quantizes": (files.float_bias, RUNTIME),
    "signed activations that onnxruntime converts": (lambda: chain(dtype=np.int8), RUNTIME),
}


@pytest.mark.parametrize(("build", "target"), GOOD.values(), ids=GOOD)
def test_a_good_file_has_no_finding(build: Callable[[], onnx.ModelProto], target: Target) -> None:
    report = check_file(build().SerializeToString(), target)
    assert report.findings == ()
    assert not report.refused
    assert bool(report.loaded_by) == (target.verified == "runtime")


def test_the_optimised_graph_says_which_signed_layers_stay_in_float() -> None:
    """Behind a residual sum onnxruntime converts c3 to unsigned activations, before it nothing."""
    report = check_file(files.residual(np.int8).SerializeToString(), RUNTIME)
    assert {finding.place for finding in report.findings} == {"c1", "c2", "sum"}
    assert report.precision.integer_share == pytest.approx(1 / 3)


# ---------------------------------------------------------------- precision
def test_precision_counts_bytes_by_type_and_work_by_kernel() -> None:
    report = check_file(files.float_weight().SerializeToString(), BOARD)
    weights, biases = 2 * 8 * 8 * 9, 2 * 8 * 4
    assert report.precision.stored_bytes["int8"] == weights
    assert report.precision.stored_bytes["int32"] == biases
    assert report.precision.stored_bytes["float32"] == 4 * (1 + 4 * 8) + 4 * 8 * 8 * 9, "scales, and the weight of c2"
    assert (report.precision.integer_share, report.precision.share_of) == (0.5, "multiply-accumulates")
    assert report.precision.activations


def test_int4_takes_half_a_byte() -> None:
    report = check_file(files.int4_weight(cast=True).SerializeToString(), RUNTIME)
    assert report.precision.stored_bytes["int4"] == 8 * 8 * 9 // 2
    assert report.precision.integer_share == 1.0


def test_weight_only_files_compute_nothing_on_integers() -> None:
    precision = check_file(files.weight_only().SerializeToString(), BOARD).precision
    assert (precision.integer_share, precision.activations) == (0.0, False)


def test_unknown_shapes_are_counted_by_weight_bytes() -> None:
    file = chain()
    for axis in (2, 3):
        file.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = f"d{axis}"
    precision = check_file(files.float_weight_of(file).SerializeToString(), BOARD).precision
    assert precision.share_of == "weight bytes"
    assert precision.integer_share == pytest.approx(608 / 2912), "576 codes and 8 scales, beside 576 weights in float32"


def test_branches_are_counted_by_their_bytes_and_not_by_their_work() -> None:
    precision = check_file(files.product_in_a_branch().SerializeToString(), BOARD).precision
    assert precision.stored_bytes == {"float32": 4 * 8 * 8, "bool": 1}
    assert np.isnan(precision.integer_share)
    assert precision.share_of.endswith(" of the main graph")


def test_macs_of_each_product() -> None:
    nodes = [
        conv("c", "x", "k"),
        helper.make_node("Flatten", ["c_o"], ["f"]),
        helper.make_node("Gemm", ["f", "g"], ["h"], transB=1),
    ]
    nodes.append(helper.make_node("MatMul", ["h", "m"], ["y"]))
    arrays: files.Arrays = {
        "k": np.ones((4, 8, 3, 3), np.float32),
        "g": np.ones((10, 144), np.float32),
        "m": np.ones((10, 7), np.float32),
    }
    graph = view(files.model(nodes, arrays, x=["n", 8, 6, 6]))
    counted = [macs(entry, graph) for entry in graph.model.graph.node if entry.op_type != "Flatten"]
    assert counted == [36 * 4 * 8 * 9, 10 * 144, 7 * 10]


# ---------------------------------------------------------------- files
def test_findings_come_with_the_most_serious_first() -> None:
    target = replace(BOARD, static_shapes=True, channel_multiple=16, weight_granularity="tensor")
    report = check_file(files.float_weight_of(files.free_batch()).SerializeToString(), target)
    severities = [finding.severity for finding in report.findings]
    order = ["refused", "float", "slow", "note"]
    assert severities == sorted(severities, key=order.index)
    assert set(severities) == {"refused", "float", "note"}


def test_local_functions_are_no_foreign_operators() -> None:
    file = chain()
    body = [helper.make_node("Cast", ["c"], ["w"], to=TensorProto.INT8)]
    opsets = [helper.make_opsetid("", 21)]
    file.functions.append(helper.make_function("own", "unpack", ["c"], ["w"], body, opsets))
    file.opset_import.append(helper.make_opsetid("own", 1))
    file.graph.node.insert(0, helper.make_node("unpack", ["c1_w"], ["c1_w8"], domain="own"))
    node(file, "dq_c1_W").input[0] = "c1_w8"
    report = check_file(file.SerializeToString(), BOARD)
    assert report.findings == ()
    assert report.precision.integer_share == 1.0


def test_a_graph_that_is_not_well_formed_is_refused() -> None:
    file = chain()
    node(file, "c2").input[0] = "nowhere"
    report = check_file(file.SerializeToString(), BOARD)
    assert any(finding.severity == "refused" and "well formed" in finding.sentence for finding in report.findings)


@pytest.mark.parametrize("content", [b"", b"no model", onnx.ModelProto().SerializeToString(), chain().SerializeToString()[:-900]])
def test_bytes_without_a_graph_are_an_error(content: bytes) -> None:
    with pytest.raises(InvalidRequest, match="ONNX"):
        check_file(content, BOARD)


@pytest.mark.filterwarnings("ignore:`isinstance\\(treespec, LeafSpec\\)`:FutureWarning")  # torch's exporter, about itself
@pytest.mark.parametrize("name", target_files())
def test_a_file_made_for_a_target_is_not_refused_there(name: str) -> None:
    import torch
    from torch import nn

    import dyncompress as dc

    torch.manual_seed(0)
    layers = (
        nn.Conv2d(3, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1),
        nn.ReLU(),
        nn.AvgPool2d(8),
        nn.Flatten(),
    )
    target = replace(load_target(name), kernel_times=None)  # every node that has an integer kernel uses it
    if target.forms[0] == "dynamic":  # it has no form for convolutions; nothing is timed
        layers, target = (nn.Flatten(), nn.Linear(192, 64), nn.ReLU(), nn.Linear(64, 32)), replace(target, processor_flags=())
    file = dc.compress(nn.Sequential(*layers, nn.Linear(32, 8)), "edge-int8", target=target, calibration=torch.randn(64, 3, 8, 8))
    report = check_file(file.content, target)
    assert not report.refused, report.findings
    assert report.findings == ()
    assert report.precision.integer_share == 1.0
    assert report.precision.stored_bytes["int8"] > 9 * 32 * 32
