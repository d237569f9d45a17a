# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# (to a checker every attribute of an nn.Module is `Tensor | Module`)
"""torch's ONNX exporters, tried in turn; the first that works gives the graph, and notes say what it couldn't do."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import onnx
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dyncompress.errors import Unsupported
from dyncompress.models.torch.calling import CALL_ERRORS, accepts_names, device_inputs, layer_by_layer
from dyncompress.models.torch.tracing import export_by_tracing

_OPSET = 20
BATCH = "batch"  # the name of the batch axis in the file


@dataclass(frozen=True)
class ExportInputs:
    """The inputs that a module is exported with.

    Attributes:
        example: a batch by input name, `[n, ...]`.
        names: input names, in order.
        free: input -> axes after the batch axis that may have any length.
        size: the one batch size that the module runs on; 0 for any.
    """

    example: Mapping[str, Any]
    names: tuple[str, ...]
    free: Mapping[str, Sequence[int]]
    size: int = 0

    @property
    def has_free_axes(self) -> bool:
        """Whether an axis after the batch axis is free."""
        return any(self.free.values())

    def for_export(self, module: nn.Module) -> ExportInputs:
        """The same with the example on the module's device; one example becomes two, since exporters fix a batch of one."""
        example = self.example
        if not self.size and all(len(value) == 1 for value in example.values()):
            example = {name: torch.cat([torch.as_tensor(value)] * 2) for name, value in example.items()}
        return replace(self, example=device_inputs(example, module, self.names))


def convert(module: nn.Module, inputs: ExportInputs) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """The ONNX graph of a module, by the first exporter that works.

    The order: a trace that is known to be exact (`tracing.py`); torch.export with a free batch axis; with a fixed one; tracing
    with a free batch axis; with a fixed one.

    Args:
        module: in eval mode.
        inputs: as `ExportInputs.for_export` returns them.

    Returns:
        the graph, and notes about a fixed batch size and about tracing.

    Raises:
        Unsupported: no exporter works, or the graph fixes an axis that has to be free.
    """
    plain = None if inputs.size or inputs.has_free_axes else _plain(module, inputs)
    if plain is not None:
        return plain, ()
    failures, fixed_axis = [], ""
    ways = ((False, True), (False, False)) if inputs.size else ((True, True), (False, True), (True, False), (False, False))
    for dynamic, dynamo in ways:
        try:
            model = _export(module, inputs, dynamic, dynamo)
            onnx.checker.check_model(model)
        except _export_errors() as error:
            failures.append(_first_line(error))
            continue
        _name_axes(model)
        fixed_axis = _fixed_axis(model, inputs.free)
        if fixed_axis:
            break  # a trace would declare the axis free and keep the length all the same
        return model, _notes(model, inputs, failures, dynamo)
    if fixed_axis:
        reason = f" ({failures[0]})" if failures else ""
        raise Unsupported(
            f"the exported graph fixes {fixed_axis}, which has to take any length{reason}; pad or crop all inputs to one shape, "
            "or make the forward method independent of that length."
        )
    raise Unsupported(f"torch.onnx can't export this model ({failures[0]}); make its forward free of data-dependent Python.")


def _notes(model: onnx.ModelProto, inputs: ExportInputs, failures: Sequence[str], dynamo: bool) -> tuple[str, ...]:
    """Sentences for the user about a fixed batch size and about tracing."""
    notes = []
    if inputs.size:
        notes.append(f"the batch size of the ONNX file is fixed at {inputs.size}, the only one that the model runs on.")
    elif not _batch_is_free(model):  # the exporter may fix it silently
        reason = failures[0] if failures else "its forward pass depends on the batch size"
        notes.append(f"the batch size of the ONNX file is fixed at {len(inputs.example[inputs.names[0]])}: {reason}.")
    if not dynamo:
        notes.append(f"exported by tracing, which keeps no data-dependent branches: {failures[-1]}.")
    return tuple(notes)


def _plain(module: nn.Module, inputs: ExportInputs) -> onnx.ModelProto | None:
    """The graph of a plain convolutional network by an exact trace; None for any other network."""
    try:
        with _silence_exporters(), layer_by_layer():
            model = export_by_tracing(module, inputs.example, inputs.names, accepts_names(module, inputs.names), _OPSET)
        onnx.checker.check_model(model)
    except (*CALL_ERRORS, Unsupported, torch.onnx.errors.OnnxExporterError, onnx.checker.ValidationError):
        return None
    return model if _batch_is_free(model) else None


def _export_errors() -> tuple[type[BaseException], ...]:
    """The exceptions that exporters raise. Loading torch._dynamo takes a second, so that this is a function."""
    exporters = (torch.onnx.errors.OnnxExporterError, torch._dynamo.exc.TorchDynamoException, onnx.checker.ValidationError)
    return (*CALL_ERRORS, *exporters)


def _batch_is_free(model: onnx.ModelProto) -> bool:
    """Whether the first axis of every input is symbolic."""
    shapes = [entry.type.tensor_type.shape.dim for entry in model.graph.input]
    return all(len(shape) > 0 and bool(shape[0].dim_param) for shape in shapes)


def _fixed_axis(model: onnx.ModelProto, free: Mapping[str, Sequence[int]]) -> str:
    """The first axis that should be free and isn't, as words for a message; empty where there is none."""
    for entry in model.graph.input:
        dims = entry.type.tensor_type.shape.dim
        for axis in free.get(entry.name, ()):
            if not dims[axis].dim_param:
                return f"axis {axis} of input '{entry.name}' at {dims[axis].dim_value}"
    return ""


def _name_axes(model: onnx.ModelProto) -> None:
    """Name the free axes after the first input and axis that they belong to, in place; exporters number them."""
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
    """Type of an exception and message of its innermost cause, since exporters nest their exceptions."""
    kind = type(error).__name__
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not line.rstrip().endswith(":")]
    return f"{kind}: {(lines or [''])[0].rstrip('.')[:200]}"


def _export(module: nn.Module, inputs: ExportInputs, dynamic: bool, dynamo: bool) -> onnx.ModelProto:
    """One attempt to export.

    Args:
        module: in eval mode.
        inputs: the example and the free axes.
        dynamic: whether the batch axis is free.
        dynamo: whether torch.export captures the program; if not, it is traced.
    """
    names, by_name = inputs.names, accepts_names(module, inputs.names)
    args = () if by_name else tuple(inputs.example[name] for name in names)
    options: dict[str, object] = {"kwargs": dict(inputs.example) if by_name else None, "input_names": list(names)}
    options |= {"opset_version": _OPSET, "dynamo": dynamo, "verbose": False}
    with _silence_exporters(), layer_by_layer(), torch.no_grad():
        if dynamo:
            if dynamic or inputs.has_free_axes:
                shapes = _dynamic_shapes(inputs, dynamic)
                options["dynamic_shapes"] = shapes if by_name else tuple(shapes.values())
            with _operators_read_once():
                return torch.onnx.export(module, args, external_data=False, optimize=True, **options).model_proto
        axes = {name: ({0: BATCH} if dynamic else {}) | {a: f"{name}_{a}" for a in inputs.free.get(name, ())} for name in names}
        buffer = io.BytesIO()
        with _SpellOutTranspose():
            torch.onnx.export(module, args, buffer, dynamic_axes=axes, **options)
        return onnx.load_from_string(buffer.getvalue())


_torchlib: list[Any] = []  # the exporter's table of operators, once it was read; it doesn't change while a process runs


@contextlib.contextmanager
def _operators_read_once() -> Iterator[None]:
    """Inside this block the exporter takes its table of operators from an export before.

    At every export torch 2.10 to 2.13 parse the sources of 500 functions for it, which takes 0.7 s, two thirds of the time of a
    small network. Where a version has no such table, nothing is changed.
    """
    from torch.onnx._internal.exporter import _registration

    apis = getattr(_registration, "onnxscript_apis", None)
    read = getattr(apis, "get_torchlib_ops", None)
    if apis is None or read is None:
        yield
        return

    def read_once() -> list[Any]:
        if not _torchlib:
            _torchlib.extend(read())
        return list(_torchlib)

    apis.get_torchlib_ops = read_once
    try:
        yield
    finally:
        apis.get_torchlib_ops = read


class _SpellOutTranspose(TorchFunctionMode):
    """Replaces `x.mT`, which the tracing exporter doesn't know, by a transpose that it knows."""

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: Mapping | None = None) -> Any:
        """Run the function, or its replacement."""
        if func == Tensor.mT.__get__:  # pyright: ignore[reportAttributeAccessIssue]
            return args[0].transpose(-2, -1)
        return func(*args, **(kwargs or {}))


def _dynamic_shapes(inputs: ExportInputs, dynamic: bool) -> dict[str, dict[int, Any]]:
    """Input -> axis -> its torch.export dimension. With AUTO the exporter may find that axes are equal or fixed."""
    batch = torch.export.Dim(BATCH)
    first: dict[int, Any] = {0: batch} if dynamic else {}
    return {name: first | dict.fromkeys(inputs.free.get(name, ()), torch.export.Dim.AUTO) for name in inputs.names}


@contextlib.contextmanager
def _silence_exporters() -> Iterator[None]:
    """Inside this block exporters neither print nor log nor warn."""
    loggers = [
        logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir", "torch._dynamo", "torch.fx")
    ]
    before = [logger.level for logger in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        log, torch._C._jit_onnx_log = torch._C._jit_onnx_log, lambda *_: None  # it prints graphs to standard output
        try:
            yield
        finally:
            torch._C._jit_onnx_log = log
            for logger, level in zip(loggers, before, strict=True):
                logger.setLevel(level)
