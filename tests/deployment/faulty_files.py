"""Small quantized files, good ones and ones with a single fault, for the check of a file against a target."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

RNG = np.random.default_rng(0)
Node = onnx.NodeProto
Arrays = dict[str, np.ndarray | TensorProto]


def codes(*shape: int, top: int = 60, dtype: type = np.int8) -> np.ndarray:
    """Random codes, the largest of which is `top`."""
    values = RNG.integers(-top, top + 1, shape)
    values.flat[0] = top
    return values.astype(dtype)


def model(
    nodes: list[Node], arrays: Arrays, x: list[int | str] | None = None, y: list[int | str] | None = None
) -> onnx.ModelProto:
    """A model with input `x` and output `y` of float32, opset 21 and IR 10."""
    tensors = [v if isinstance(v, TensorProto) else numpy_helper.from_array(v, name) for name, v in arrays.items()]
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, x or [1, 8, 6, 6])]
    ends.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, y or None))
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)
    made = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 21)])
    made = onnx.shape_inference.infer_shapes(made)  # the shape of the output
    del made.graph.value_info[:]
    return made


def q(source: str, to: str, grid: str = "a") -> Node:
    """QuantizeLinear with scale `<grid>_s` and zero point `<grid>_z`."""
    return helper.make_node("QuantizeLinear", [source, f"{grid}_s", f"{grid}_z"], [to], name=f"q_{to}")


def dq(source: str, to: str, grid: str = "a") -> Node:
    return helper.make_node("DequantizeLinear", [source, f"{grid}_s", f"{grid}_z"], [to], name=f"dq_{to}")


def dq_weight(source: str, to: str, **attributes: int) -> Node:
    """DequantizeLinear of a weight or bias along axis 0, zero point left out."""
    return helper.make_node("DequantizeLinear", [source, f"{source}_s"], [to], name=f"dq_{to}", axis=0, **attributes)


def conv(name: str, *inputs: str) -> Node:
    return helper.make_node("Conv", inputs, [f"{name}_o"], name=name, pads=[1, 1, 1, 1])


def grid(zero: int = 3, dtype: type = np.uint8, scale: float = 0.05) -> Arrays:
    return {"a_s": np.float32(scale), "a_z": np.array(zero, dtype)}  # type: ignore[dict-item]


def layer(name: str, scale: float = 0.05) -> Arrays:
    """Codes, scales and bias of a Conv from 8 to 8 channels."""
    weight_scale = np.full(8, 0.02, np.float32)
    arrays: Arrays = {f"{name}_w": codes(8, 8, 3, 3), f"{name}_w_s": weight_scale}
    arrays |= {f"{name}_b": codes(8, dtype=np.int32), f"{name}_b_s": np.float32(scale) * weight_scale}
    return arrays


def quantized_conv(name: str, source: str, bias: bool = True) -> list[Node]:
    """DQ of the codes `source`, Conv, Q of its output as `<name>_q`."""
    inputs = [f"{name}_x", f"{name}_W", *([f"{name}_B"] if bias else [])]
    ends = [dq(source, inputs[0]), dq_weight(f"{name}_w", inputs[1]), *([dq_weight(f"{name}_b", inputs[2])] if bias else [])]
    return [*ends, conv(name, *inputs), q(f"{name}_o", f"{name}_q")]


def chain(**grids: object) -> onnx.ModelProto:
    """Two quantized convolutions, c1 and c2, without a fault."""
    nodes = [q("x", "x_q"), *quantized_conv("c1", "x_q"), *quantized_conv("c2", "c1_q"), dq("c2_q", "y")]
    return model(nodes, {**grid(**grids), **layer("c1"), **layer("c2")})  # type: ignore[arg-type]


def residual(dtype: type = np.uint8) -> onnx.ModelProto:
    """A residual sum `sum` behind convolution c1, without a fault for uint8."""
    nodes = [q("x", "x_q"), *quantized_conv("c1", "x_q"), *quantized_conv("c2", "c1_q"), dq("c2_q", "l"), dq("c1_q", "r")]
    nodes += [helper.make_node("Add", ["l", "r"], ["sum_o"], name="sum"), q("sum_o", "s_q"), *quantized_conv("c3", "s_q")]
    return model([*nodes, dq("c3_q", "y")], {**grid(0, dtype), **layer("c1"), **layer("c2"), **layer("c3")})


def tensor(file: onnx.ModelProto, name: str) -> TensorProto:
    return next(entry for entry in file.graph.initializer if entry.name == name)


def node(file: onnx.ModelProto, name: str) -> Node:
    return next(entry for entry in file.graph.node if entry.name == name)


def with_array(file: onnx.ModelProto, **arrays: np.ndarray) -> onnx.ModelProto:
    """The file with other values of initializers."""
    for name, value in arrays.items():
        tensor(file, name).CopyFrom(numpy_helper.from_array(np.asarray(value), name))
    return file


# ---------------------------------------------------------------- the planted faults
def newer_ir() -> onnx.ModelProto:
    file = chain()
    file.ir_version = 11
    return file


def newer_opset() -> onnx.ModelProto:
    file = chain()
    file.opset_import[0].version = 22
    return file


def free_batch() -> onnx.ModelProto:
    file = chain()
    file.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "n"
    return file


def odd_scale() -> onnx.ModelProto:
    file = with_array(chain(scale=2.0**-4), c1_w_s=np.full(8, 0.02), c2_w_s=np.full(8, 2.0**-6))
    return with_array(file, c1_b_s=np.full(8, 2.0**-10), c2_b_s=np.full(8, 2.0**-10))


def int4_weight(cast: bool = False) -> onnx.ModelProto:
    """c1 with a weight of int4, behind a Cast to int8 or straight into its DequantizeLinear."""
    file = chain()
    flat = codes(8 * 8 * 9, top=7).tolist()
    tensor(file, "c1_w").CopyFrom(helper.make_tensor("c1_w", TensorProto.INT4, [8, 8, 3, 3], flat))
    if cast:
        file.graph.node.insert(0, helper.make_node("Cast", ["c1_w"], ["c1_w8"], name="cast", to=TensorProto.INT8))
        node(file, "dq_c1_W").input[0] = "c1_w8"
    return file


def weight_only() -> onnx.ModelProto:
    nodes = [dq_weight("w", "W"), conv("c", "x", "W"), helper.make_node("Relu", ["c_o"], ["y"])]
    return model(nodes, {"w": codes(8, 8, 3, 3), "w_s": np.full(8, 0.02, np.float32)})


def bias_scale_off() -> onnx.ModelProto:
    return with_array(chain(), c2_b_s=np.full(8, 0.05 * 0.02 * 1.02, np.float32))


def bias_scale_nearly() -> onnx.ModelProto:
    return with_array(chain(), c2_b_s=np.full(8, 0.05 * 0.02 * 1.005, np.float32))


def float_bias() -> onnx.ModelProto:
    file = chain()
    file.graph.initializer.append(numpy_helper.from_array(np.ones(8, np.float32), "bias"))
    node(file, "c2").input[2] = "bias"
    return file


def float_weight() -> onnx.ModelProto:
    file = chain()
    file.graph.initializer.append(numpy_helper.from_array(RNG.standard_normal((8, 8, 3, 3)).astype(np.float32), "float"))
    node(file, "c2").input[1] = "float"
    return file


def float_weight_of(file: onnx.ModelProto) -> onnx.ModelProto:
    """The file with a float32 weight in c2."""
    file.graph.initializer.append(numpy_helper.from_array(np.ones((8, 8, 3, 3), np.float32), "float"))
    node(file, "c2").input[1] = "float"
    return file


def one_term_float() -> onnx.ModelProto:
    file = residual()
    node(file, "sum").input[1] = "x"
    return file


def no_output_grid() -> onnx.ModelProto:
    nodes = [q("x", "x_q"), *quantized_conv("c1", "x_q")[:-1], helper.make_node("Sigmoid", ["c1_o"], ["y"])]
    return model(nodes, {**grid(), **layer("c1")})


def conv_integer() -> onnx.ModelProto:
    nodes = [helper.make_node("DynamicQuantizeLinear", ["x"], ["x_q", "s", "z"], name="dynamic")]
    nodes += [helper.make_node("ConvInteger", ["x_q", "w", "z"], ["sums"], name="c"), to_float("sums")]
    return model(nodes, {"w": codes(8, 8, 3, 3)})


def to_float(source: str) -> Node:
    return helper.make_node("Cast", [source], ["y"], name="to_float", to=TensorProto.FLOAT)


def table_decoded_first() -> onnx.ModelProto:
    nodes = [helper.make_node("Cast", ["x"], ["rows"], to=TensorProto.INT64), dq_weight("t", "T")]
    nodes.append(helper.make_node("Gather", ["T", "rows"], ["y"], name="embed"))
    return model(nodes, {"t": codes(50, 4), "t_s": np.full(50, 0.02, np.float32)}, x=[2, 3])


def table_gathered_first() -> onnx.ModelProto:
    nodes = [helper.make_node("Cast", ["x"], ["rows"], to=TensorProto.INT64)]
    nodes += [helper.make_node("Gather", ["t", "rows"], ["c"], name="embed"), dq("c", "y")]
    return model(nodes, {"t": codes(50, 4), **grid(0, np.int8)}, x=[2, 3])


def half_weight() -> onnx.ModelProto:
    nodes = [helper.make_node("Cast", ["w"], ["W"], name="widen", to=TensorProto.FLOAT), conv("c", "x", "W")]
    return model([*nodes, helper.make_node("Relu", ["c_o"], ["y"])], {"w": RNG.standard_normal((8, 8, 3, 3)).astype(np.float16)})


def unpacked_weight() -> onnx.ModelProto:
    nodes = [helper.make_node("Cast", ["w"], ["w_f"], to=TensorProto.FLOAT), helper.make_node("Mul", ["w_f", "s"], ["W"])]
    nodes += [conv("c", "x", "W"), helper.make_node("Relu", ["c_o"], ["y"])]
    return model(nodes, {"w": codes(8, 8, 3, 3), "s": np.full((8, 1, 1, 1), 0.02, np.float32)})


def eight_bit_weights() -> onnx.ModelProto:
    return with_array(chain(), c1_w=codes(8, 8, 3, 3, top=127))


def foreign(domain: str = "com.example") -> onnx.ModelProto:
    file = chain()
    file.graph.node.append(helper.make_node("Secret", ["x"], ["secret"], name="secret", domain=domain))
    file.opset_import.append(helper.make_opsetid(domain, 1))
    return file


def odd_channels() -> onnx.ModelProto:
    return model(
        [conv("c1", "x", "w1"), conv("c2", "c1_o", "w2"), helper.make_node("Relu", ["c2_o"], ["y"])],
        {"w1": np.ones((6, 8, 3, 3), np.float32), "w2": np.ones((5, 6, 3, 3), np.float32)},
    )


def computed_scale() -> onnx.ModelProto:
    nodes = [helper.make_node("ReduceMax", ["x"], ["m"], keepdims=0), q("x", "x_q", "c"), dq("x_q", "y", "c")]
    nodes[1].input[1] = nodes[2].input[1] = "m"
    return model(nodes, {"c_z": np.array(3, np.uint8)})


def attention() -> onnx.ModelProto:
    nodes = [helper.make_node("Attention", ["x", "x", "x"], ["y"], name="attend")]
    file = model(nodes, {}, x=[1, 2, 4, 8])
    file.opset_import[0].version, file.ir_version = 23, 11
    return file


def external() -> onnx.ModelProto:
    file = chain()
    stored = tensor(file, "c2_w")
    onnx.external_data_helper.set_external_data(stored, "weights.bin")
    stored.ClearField("raw_data")
    return file


def string_output() -> onnx.ModelProto:
    file = model([helper.make_node("Cast", ["x"], ["y"], to=TensorProto.STRING)], {})
    file.graph.output[0].type.tensor_type.elem_type = TensorProto.STRING
    return file


def sequence_output() -> onnx.ModelProto:
    file = model([helper.make_node("SequenceConstruct", ["x"], ["y"])], {})
    element = helper.make_tensor_type_proto(TensorProto.FLOAT, None)
    file.graph.output[0].type.CopyFrom(helper.make_sequence_type_proto(element))
    return file


def double_weight() -> onnx.ModelProto:
    nodes = [helper.make_node("Cast", ["x"], ["d"], to=TensorProto.DOUBLE), helper.make_node("MatMul", ["d", "w"], ["m"])]
    return model([*nodes, to_float("m")], {"w": np.ones((8, 8))}, x=[2, 8])


def high_rank() -> onnx.ModelProto:
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["r"], name="fold"), helper.make_node("Relu", ["r"], ["y"])]
    return model(nodes, {"shape": np.array([1, 2, 2, 2, 6, 6])})


def loop_operator() -> onnx.ModelProto:
    body = helper.make_graph([helper.make_node("Tanh", ["x"], ["t"], name="inner")], "b", [], [info("t")])
    nodes = [helper.make_node("If", ["yes"], ["y"], name="branch", then_branch=body, else_branch=body)]
    return model(nodes, {"yes": np.array(True)})


def product_in_a_branch() -> onnx.ModelProto:
    weight = numpy_helper.from_array(np.ones((8, 8), np.float32), "w")
    one = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["m"])], "b", [], [info("m")], [weight])
    other = helper.make_graph([helper.make_node("Tanh", ["x"], ["t"])], "c", [], [info("t")])
    branch = helper.make_node("If", ["yes"], ["y"], name="branch", then_branch=one, else_branch=other)
    return model([branch], {"yes": np.array(True)}, x=[2, 8])


def info(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
