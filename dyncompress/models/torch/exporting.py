# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# (to a checker every attribute of an nn.Module is `Tensor | Module`)
"""torch's exporters, tried one after the other: which axes may have any length, and what to know of the way taken."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dyncompress.errors import Unsupported
from dyncompress.models.torch.calling import CALL_ERRORS, layer_by_layer, takes_names
from dyncompress.models.torch.tracing import traced
from dyncompress.types import Batch

_OPSET = 20
BATCH = "batch"  # the name of the batch axis in the file


@dataclass(frozen=True)
class Given:
    """What a module is exported with.

    Attributes:
        inputs: an example by name, on the module's device.
        names: of the inputs, in order.
        free: input -> axes behind the batch axis that may have any length.
        size: the one batch size that the module runs on; 0: any.
    """

    inputs: Mapping[str, Tensor]
    names: tuple[str, ...]
    free: Mapping[str, Sequence[int]]
    size: int = 0

    @property
    def uneven(self) -> bool:
        """Whether an axis behind the batch axis is free."""
        return any(self.free.values())


def two_examples(example: Batch) -> Batch:
    """Two examples at least: exporters take a batch of one for a constant."""
    if any(len(value) != 1 for value in example.values()):
        return example
    return {name: torch.cat([torch.as_tensor(value)] * 2) for name, value in example.items()}


def converted(module: nn.Module, given: Given) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """The first way that works: a trace where it is sure, dynamic batch, fixed batch, and any trace.

    Raises:
        Unsupported: none works, or an axis that has to be free is fixed.
    """
    plain = None if given.size or given.uneven else _plain(module, given)
    if plain is not None:
        return plain, ()
    failures, fixed = [], ""
    ways = ((False, True), (False, False)) if given.size else ((True, True), (False, True), (True, False), (False, False))
    for dynamic, dynamo in ways:
        try:
            model = _export(module, given, dynamic, dynamo)
            onnx.checker.check_model(model)
        except _export_errors() as error:
            failures.append(_first_line(error))
            continue
        _name_axes(model)
        fixed = _fixed_axis(model, given.free)
        if fixed:
            break  # a trace would call the axis free and keep the length all the same
        return model, _notes(model, given, failures, dynamo)
    if fixed:
        reason = f" ({failures[0]})" if failures else ""
        raise Unsupported(
            f"the exported graph fixes {fixed}, which has to take any length{reason}; pad or crop all inputs to one shape, or "
            "make the forward method independent of that length."
        )
    raise Unsupported(f"torch.onnx can't export this model ({failures[0]}); make its forward free of data-dependent Python.")


def _notes(model: onnx.ModelProto, given: Given, failures: Sequence[str], dynamo: bool) -> tuple[str, ...]:
    """What the user should know of an export."""
    notes = []
    if given.size:
        notes.append(f"the batch size of the ONNX file is fixed at {given.size}, the only one that the model runs on.")
    elif not _batch_is_free(model):  # the exporter may fix it without a word
        reason = failures[0] if failures else "its forward pass depends on the batch size"
        notes.append(f"the batch size of the ONNX file is fixed at {len(given.inputs[given.names[0]])}: {reason}.")
    if not dynamo:
        notes.append(f"exported by tracing, which keeps no data-dependent branches: {failures[-1]}.")
    return tuple(notes)


def _plain(module: nn.Module, given: Given) -> onnx.ModelProto | None:
    """The graph of a plain convolutional network, None for any other."""
    try:
        with _silenced(), layer_by_layer():
            model = traced(module, given.inputs, given.names, takes_names(module, given.names), _OPSET)
        onnx.checker.check_model(model)
    except (*CALL_ERRORS, Unsupported, torch.onnx.errors.OnnxExporterError, onnx.checker.ValidationError):
        return None
    return model if _batch_is_free(model) else None


def _export_errors() -> tuple[type[BaseException], ...]:
    """What exporters raise. torch._dynamo takes a second to load and isn't, where a trace will do."""
    own = (torch.onnx.errors.OnnxExporterError, torch._dynamo.exc.TorchDynamoException, onnx.checker.ValidationError)
    return (*CALL_ERRORS, *own)


def _batch_is_free(model: onnx.ModelProto) -> bool:
    """Whether the first axis of every input is symbolic."""
    shapes = [entry.type.tensor_type.shape.dim for entry in model.graph.input]
    return all(len(shape) > 0 and bool(shape[0].dim_param) for shape in shapes)


def _fixed_axis(model: onnx.ModelProto, free: Mapping[str, Sequence[int]]) -> str:
    """A phrase for the first axis that should be free and isn't; empty where there is none."""
    for entry in model.graph.input:
        dims = entry.type.tensor_type.shape.dim
        for axis in free.get(entry.name, ()):
            if not dims[axis].dim_param:
                return f"axis {axis} of input '{entry.name}' at {dims[axis].dim_value}"
    return ""


def _name_axes(model: onnx.ModelProto) -> None:
    """Free axes are named after the first input and axis that they belong to, in place; exporters number them."""
    names: dict[str, str] = {}
    for entry in model.graph.input:
        for axis, dim in enumerate(entry.type.tensor_type.shape.dim):
            if dim.dim_param:
                names.setdefault(dim.dim_param, f"{entry.name}_{axis}" if axis else BATCH)
    for entry in (*model.graph.input, *model.graph.output):
        for dim in entry.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = re.sub(r"\w+", lambda word: names.get(word[0], word[0]), dim.dim_param)


def _first_line(error: BaseException) -> str:
    """What is wrong, in the last cause's words: exporters wrap the reason several times, under headings of their own."""
    kind = type(error).__name__
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not line.rstrip().endswith(":")]
    return f"{kind}: {(lines or [''])[0].rstrip('.')[:200]}"


def _export(module: nn.Module, given: Given, dynamic: bool, dynamo: bool) -> onnx.ModelProto:
    """One attempt; `dynamic`: with a free batch axis."""
    names, by_name = given.names, takes_names(module, given.names)
    args = () if by_name else tuple(given.inputs[name] for name in names)
    how: dict[str, object] = {"kwargs": dict(given.inputs) if by_name else None, "input_names": list(names)}
    how |= {"opset_version": _OPSET, "dynamo": dynamo, "verbose": False}
    with _silenced(), layer_by_layer(), torch.no_grad():
        if dynamo:
            if dynamic or given.uneven:
                shapes = _dynamic_shapes(given, dynamic)
                how["dynamic_shapes"] = shapes if by_name else tuple(shapes.values())
            return torch.onnx.export(module, args, external_data=False, optimize=True, **how).model_proto
        axes = {name: ({0: BATCH} if dynamic else {}) | {a: f"{name}_{a}" for a in given.free.get(name, ())} for name in names}
        buffer = io.BytesIO()
        with _SpeltOut():
            torch.onnx.export(module, args, buffer, dynamic_axes=axes, **how)
        return onnx.load_from_string(buffer.getvalue())


class _SpeltOut(TorchFunctionMode):
    """Writes the transposes that the tracing exporter doesn't know (`x.mT`) as one that it knows."""

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: Mapping | None = None) -> Any:
        """Run, or run the other form."""
        if func == Tensor.mT.__get__:  # pyright: ignore[reportAttributeAccessIssue]
            return args[0].transpose(-2, -1)
        return func(*args, **(kwargs or {}))


def _dynamic_shapes(given: Given, dynamic: bool) -> dict[str, dict[int, Any]]:
    """Input -> axis -> how free it is: axes of equal length may turn out to be one, or fixed."""
    batch = torch.export.Dim(BATCH)
    first: dict[int, Any] = {0: batch} if dynamic else {}
    return {name: first | dict.fromkeys(given.free.get(name, ()), torch.export.Dim.AUTO) for name in given.names}


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """The exporters print and log their progress; none of it is for the user."""
    loggers = [
        logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir", "torch._dynamo", "torch.fx")
    ]
    before = [logger.level for logger in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        printed, torch._C._jit_onnx_log = torch._C._jit_onnx_log, lambda *_: None  # graphs, natively to standard output
        try:
            yield
        finally:
            torch._C._jit_onnx_log = printed
            for logger, level in zip(loggers, before, strict=True):
                logger.setLevel(level)
