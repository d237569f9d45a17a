"""Read an ONNX file and bring its graph into one form: all weights are initializers of the main graph.

Local functions are inlined; Constant nodes and the initializers of subgraphs become initializers of the main graph; initializers
are no inputs; what depends on constants alone (a Cast of 16-bit weights, a Transpose, an Unsqueeze) is computed once, by the
functions of the interpreter. Names of inputs and outputs, free axes and metadata stay.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import onnx
import onnx_ir as ir
import torch
from google.protobuf.message import DecodeError
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, TensorShapeProto
from onnx_ir.passes import common
from torch import Tensor

from dyncompress.errors import InvalidRequest
from dyncompress.models.onnx.interpreter import node_of, reads_of
from dyncompress.models.onnx.node import NoTorchFunctionError, Value
from dyncompress.models.onnx.operators import function_of
from dyncompress.models.onnx.values import to_proto, to_value
from dyncompress.types.batch_axes import batch_axes, batch_word

# Operators whose results differ from run to run, or that are kept since their result is much larger than what it is made of.
NOT_FOLDED = {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial", "Dropout"}
READ_ERRORS = (
    *(OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError, NotImplementedError),
    *(DecodeError, onnx.checker.ValidationError, ir.passes.PassError),
)
GROWTH = 4  # a result may have at most so many times the bytes of the constants that it is made of, or SMALL
SMALL = 4096  # bytes
BATCH = "batch"  # the name of the axis of the examples where a file gives it none
OLDEST_IR = 8  # before 4, initializers had to be inputs


@dataclass(frozen=True)
class OnnxGraph:
    """A file's graph in one form.

    Attributes:
        proto: the model.
        name: of the file, for messages.
        transposes: initializer that was computed as another one's transpose -> that one.

    Example:
        >>> from onnx import helper
        >>> x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3]) for name in "xy")
        >>> model = helper.make_model(helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y]))
        >>> graph = in_one_form(model, "net.onnx")
        >>> graph.input_names, graph.versions[""] == model.opset_import[0].version
        (('x',), True)
    """

    proto: ModelProto
    name: str
    transposes: dict[str, str] = field(default_factory=dict)

    def __deepcopy__(self, _memo: object) -> OnnxGraph:
        """Itself: it is never changed."""
        return self

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the inputs, in order."""
        return tuple(value.name for value in self.proto.graph.input)

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the outputs, in order."""
        return tuple(value.name for value in self.proto.graph.output)

    @property
    def shapes(self) -> dict[str, list[int | str | None]]:
        """Input or output -> its shape as it is declared: a number, a word, or None for an axis without a name."""
        values = (*self.proto.graph.input, *self.proto.graph.output)
        return {v.name: [_length(dim) for dim in v.type.tensor_type.shape.dim] for v in values}

    @property
    def axes(self) -> dict[str, int | None]:
        """Input or output -> the axis of the examples; None for one without axes."""
        return batch_axes(self.shapes)

    @property
    def batch_size(self) -> int:
        """The one batch size that the graph is declared for: the first axis of its first input; 0 for any."""
        first = next((shape[0] for shape in self.shapes.values() if shape), None)
        return first if isinstance(first, int) else 0

    @property
    def digest(self) -> str:
        """sha256 of the graph with its weights."""
        return hashlib.sha256(self.proto.SerializeToString(deterministic=True)).hexdigest()

    @property
    def versions(self) -> Mapping[str, int]:
        """Domain -> version of its operator set."""
        return {"" if entry.domain == "ai.onnx" else entry.domain: entry.version for entry in self.proto.opset_import}

    @property
    def initializers(self) -> Mapping[str, TensorProto]:
        """Name -> initializer of the main graph."""
        return {proto.name: proto for proto in self.proto.graph.initializer}


def read_file(path: str | Path) -> OnnxGraph:
    """The graph of a file in one form.

    Args:
        path: of the file; external data lie in its folder or below.

    Raises:
        InvalidRequest: there is no such file, it is no ONNX file, or external data lie elsewhere or are missing.
    """
    path = Path(path)
    if not path.is_file():
        raise InvalidRequest(f"model: there is no file '{path}'.")
    try:
        proto = onnx.load(path, load_external_data=False)
    except READ_ERRORS as error:
        raise InvalidRequest(
            f"model: '{path}' is no ONNX file ({_first_line(error)}); give a file that onnx can load."
        ) from error
    if not proto.graph.node:
        raise InvalidRequest(f"model: '{path}' is no ONNX file, or has an empty graph; export the model again.")
    refuse_other_data(proto.graph, path)
    try:
        onnx.load_external_data_for_model(proto, str(path.parent))
    except READ_ERRORS as error:
        raise InvalidRequest(
            f"model: '{path}' keeps weights in files that can't be read ({_first_line(error)}); put them into its folder."
        ) from error
    return in_one_form(proto, path.name)


def refuse_other_data(graph: GraphProto, path: Path) -> None:
    """Refuse external data outside of the file's folder, and more of it than there is, before memory is taken for it.

    Raises:
        InvalidRequest: names the tensor and the file.
    """
    attributes = [attribute for node in graph.node for attribute in node.attribute]
    tensors = [*graph.initializer, *(a.t for a in attributes if a.HasField("t")), *(t for a in attributes for t in a.tensors)]
    for tensor in tensors:
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        data = (path.parent / entries.get("location", "")).resolve()
        inside = data.is_relative_to(path.parent.resolve()) and data.is_file()
        numbers = [int(value) if value.isdecimal() else 0 for value in (entries.get("offset", ""), entries.get("length", ""))]
        if not inside or sum(numbers) > data.stat().st_size:
            where = entries.get("location", "")
            raise InvalidRequest(
                f"model: tensor '{tensor.name}' keeps its values in '{where}', which isn't in the folder of '{path}', or is "
                "shorter than the file says; put it there."
            )
    for attribute in attributes:
        if attribute.HasField("g"):
            refuse_other_data(attribute.g, path)


def in_one_form(proto: ModelProto, name: str = "the model") -> OnnxGraph:
    """A copy of a model in one form.

    Raises:
        InvalidRequest: the graph isn't valid.
    """
    try:
        model = ir.serde.deserialize_model(proto)
        model.ir_version = max(model.ir_version, OLDEST_IR)
        passes = ir.passes.Sequential(
            common.RemoveInitializersFromInputsPass(),
            common.InlinePass(),
            common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
            common.NameFixPass(),
            common.LiftSubgraphInitializersToMainGraphPass(),
            common.TopologicalSortPass(),
        )
        model = passes(model).model
        proto = ir.serde.serialize_model(model)
    except READ_ERRORS as error:
        raise InvalidRequest(
            f"model: the graph of '{name}' isn't valid ({_first_line(error)}); export the model again."
        ) from error
    del proto.graph.value_info[:]
    make_names_unique(proto.graph, set(), {})
    graph = OnnxGraph(proto, name)
    fold_constants(graph)
    return graph


def make_names_unique(graph: GraphProto, taken: set[str], renamed: Mapping[str, str]) -> None:
    """Give values of subgraphs other names where a value elsewhere in the file has theirs, in place; the main graph comes first.

    Args:
        graph: the main graph or a subgraph.
        taken: all names so far; this graph's are added.
        renamed: old name -> new name, of the outer graphs.
    """
    main = not taken
    defined = (
        [v.name for v in graph.input] + [t.name for t in graph.initializer] + [n for node in graph.node for n in node.output if n]
    )
    own = {name: name if main else _free(name, taken) for name in dict.fromkeys(defined)}
    taken.update(own.values())
    names = {**renamed, **own}
    for value in (*graph.input, *graph.output, *graph.initializer):
        value.name = names.get(value.name, value.name)
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        for attribute in node.attribute:
            if attribute.HasField("g"):
                del attribute.g.value_info[:]
                make_names_unique(attribute.g, taken, names)


def _free(name: str, taken: Collection[str]) -> str:
    """The name, with a number where it is taken."""
    number, free = 0, name
    while free in taken:
        number += 1
        free = f"{name}_{number}"
    return free


def fold_constants(graph: OnnxGraph) -> None:
    """Compute the nodes whose inputs are all constants, in place, in subgraphs too; unused initializers are removed."""
    main = graph.proto.graph
    initializers = dict(graph.initializers)
    values: dict[str, Value] = {}
    aliases: dict[str, str] = {}  # a constant that was computed before -> the earlier one
    computed: dict[tuple, str] = {}

    def fold(part: GraphProto) -> None:
        """Compute the nodes of the main graph or of a subgraph whose inputs are constants, in place."""
        kept: list[NodeProto] = []
        outputs = {value.name for value in part.output}
        for node in part.node:
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    fold(attribute.g)
            node.input[:] = [aliases.get(name, name) for name in node.input]
            names = [name for name in node.input if name]
            foldable = names and all(name in initializers for name in names) and not outputs & set(node.output)
            for name in names if foldable else ():
                values.setdefault(name, to_value(initializers[name]))
            results = _computed(node, [values[name] if name else None for name in node.input], graph) if foldable else None
            if results is None:
                kept.append(node)
                continue
            if node.op_type == "Transpose" and results[0].ndim == 2:
                graph.transposes.setdefault(node.output[0], node.input[0])
            for name, value in zip(node.output, results, strict=False):
                if name:
                    proto = to_proto(value, name)
                    first = computed.setdefault((proto.data_type, *proto.dims, proto.raw_data), name)
                    if first != name:
                        aliases[name] = first
                    else:
                        initializers[name], values[name] = proto, value
        copies = [NodeProto.FromString(node.SerializeToString()) for node in kept]
        del part.node[:]
        part.node.extend(copies)

    fold(main)
    read = {name for node in main.node for name in reads_of(node)} | set(graph.output_names)
    used = [proto for name, proto in initializers.items() if name in read]
    copies = [TensorProto.FromString(proto.SerializeToString()) for proto in used]
    del main.initializer[:]
    main.initializer.extend(copies)


def _computed(node: NodeProto, inputs: list[Value], graph: OnnxGraph) -> tuple[Tensor, ...] | None:
    """The outputs of a node on constants; None where it stays in the graph."""
    if node.op_type in NOT_FOLDED or any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
        return None
    own = node_of(node, graph.versions)
    try:
        function = function_of(own.domain, own.operator, own.version)
        with torch.no_grad():
            results = function(own, *inputs)
    except (NoTorchFunctionError, RuntimeError, ValueError, TypeError, IndexError):
        return None  # onnxruntime computes it, or reports what is wrong
    results = results if isinstance(results, tuple) else (results,)
    if not all(isinstance(value, Tensor) for value in results):
        return None
    size = sum(value.nbytes for value in results)
    made_of = sum(value.nbytes for value in inputs if isinstance(value, Tensor))
    return results if size <= max(SMALL, GROWTH * made_of) else None


def _first_line(error: Exception) -> str:
    """The first line of an error's text."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _length(dim: TensorShapeProto.Dimension) -> int | str | None:
    """The declared length of an axis; other tools write -1 for any length."""
    return dim.dim_value if dim.dim_value > 0 or (dim.HasField("dim_value") and dim.dim_value == 0) else dim.dim_param or None


def name_batch_axes(graph: OnnxGraph) -> None:
    """Give the axis of the examples the same name in all inputs, in place, unless their number is fixed.

    It is the first axis of the first input, and in the others the axis of that name, else the first one of any length.
    """
    if graph.batch_size:
        return
    inputs = [value.type.tensor_type.shape.dim for value in graph.proto.graph.input]
    word = batch_word(graph.shapes) or BATCH
    for dims in inputs:
        free = [dim for dim in dims if not isinstance(_length(dim), int)]
        if free and all(dim.dim_param != word for dim in dims):
            chosen = dims[0] if dims is inputs[0] or dims[0] in free else free[0]
            chosen.dim_param = word


def declare_shapes(graph: OnnxGraph, shapes: Mapping[str, Sequence[int]]) -> None:
    """Give inputs and outputs a shape where they have none, or one of another number of axes, in place.

    Other tools ask for it. The lengths stay open, but that of the examples where it is fixed and only one axis has it.

    Args:
        graph: to be changed.
        shapes: of inputs and outputs on an example.
    """
    size = graph.batch_size
    for value in (*graph.proto.graph.input, *graph.proto.graph.output):
        kind, shape = value.type.tensor_type, list(shapes.get(value.name, ()))
        if value.name not in shapes or not value.type.HasField("tensor_type"):
            continue
        if kind.HasField("shape") and len(kind.shape.dim) == len(shape):
            continue
        kind.shape.SetInParent()
        del kind.shape.dim[:]
        for length in shape:
            dim = kind.shape.dim.add()
            if size and length == size and shape.count(size) == 1:
                dim.dim_value = size
