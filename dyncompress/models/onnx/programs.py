"""Programs that torch has already exported, as ONNX graphs: `.pt2` files and TorchScript.

Their layers aren't modules any more, so that a graph is what is left to work on; torch's exporters write it.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch

from dyncompress.errors import InvalidRequest, Unsupported
from dyncompress.models.onnx.reading import OnnxGraph, in_one_form
from dyncompress.types import Batch

OPSET = 20
BATCH = "batch"


@dataclass(frozen=True)
class Script:
    """A TorchScript module. Its graph is written once an example is known, since the exporter runs it.

    Attributes:
        module: in eval mode.
        name: for messages.
    """

    module: torch.jit.ScriptModule
    name: str = "the model"

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the forward method's arguments without a default."""
        arguments = self.module.forward.schema.arguments[1:]  # type: ignore[attr-defined]
        return tuple(argument.name for argument in arguments if not argument.has_default_value())

    def graph(self, example: Batch) -> OnnxGraph:
        """The module's graph, for batches of any size.

        Args:
            example: `[n, ...]` by input name.

        Raises:
            InvalidRequest: an input is missing, or the module can't run on the example.
            Unsupported: torch can't write it as ONNX.
        """
        names = self.input_names
        missing = [name for name in names if name not in example]
        if missing:
            raise InvalidRequest(f"the model's input '{missing[0]}' is missing; the batch has {', '.join(sorted(example))}.")
        inputs = tuple(torch.as_tensor(example[name]) for name in names)
        try:
            with torch.no_grad():
                outputs = self.module(*inputs)
        except RuntimeError as error:
            line = str(error).strip().splitlines()[-1]
            raise InvalidRequest(f"the model can't run on these inputs: {line}; give inputs that fit it.") from error
        count = len(outputs) if isinstance(outputs, tuple | list) else 1
        ends = [f"output_{index}" for index in range(count)] if count > 1 else ["output"]
        buffer = io.BytesIO()
        options: dict[str, Any] = {"input_names": list(names), "output_names": ends, "opset_version": OPSET, "dynamo": False}
        axes = {name: {0: BATCH} for name in (*names, *ends)}
        with _quiet(), _written(self.name):
            torch.onnx.export(self.module, inputs, buffer, dynamic_axes=axes, **options)  # type: ignore[arg-type]
        return in_one_form(onnx.load_from_string(buffer.getvalue()), self.name)


def script_of(module: torch.jit.ScriptModule, name: str = "the model") -> Script:
    """A TorchScript module in eval mode, on a copy."""
    return Script(copy.deepcopy(module).eval() if module.training else module, name)


def read_script(path: str | Path) -> Script:
    """The TorchScript module of a file.

    Raises:
        InvalidRequest: there is no such file.
        Unsupported: it holds something else, such as pickled weights.
    """
    path = Path(path)
    if not path.is_file():
        raise InvalidRequest(f"model: there is no file '{path}'.")
    try:
        with _quiet():
            module = torch.jit.load(str(path), map_location="cpu")
    except (RuntimeError, ValueError) as error:
        raise Unsupported(
            f"'{path}' is no TorchScript program; a file of weights needs the network that they belong to: name a function that "
            "builds the network and loads its weights, e.g. `net.py:model`."
        ) from error
    return script_of(module, path.name)


def read_exported(path: str | Path) -> OnnxGraph:
    """The graph of a `.pt2` file.

    Raises:
        InvalidRequest: there is no such file, or it is no exported program.
        Unsupported: torch can't write it as ONNX.
    """
    path = Path(path)
    if not path.is_file():
        raise InvalidRequest(f"model: there is no file '{path}'.")
    try:
        with _quiet():
            program = torch.export.load(path)
    except (RuntimeError, ValueError, AssertionError, OSError, KeyError, zipfile.BadZipFile) as error:
        line = (str(error).strip().splitlines() or [type(error).__name__])[0][:120].rstrip(".")
        raise InvalidRequest(f"model: '{path}' is no exported program ({line}); save it with torch.export.save.") from error
    return graph_of_exported(program, path.name)


def graph_of_exported(program: torch.export.ExportedProgram, name: str = "the model") -> OnnxGraph:
    """The graph of an exported program, with the axes that the program leaves free.

    Raises:
        Unsupported: torch can't write it as ONNX.
    """
    with _quiet(), _written(name):
        written = torch.onnx.export(program, dynamo=True, optimize=True, external_data=False, opset_version=OPSET)
    assert written is not None
    return in_one_form(written.model_proto, name)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Inside this block neither torch's exporters nor their warnings write anything."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(level)


@contextlib.contextmanager
def _written(name: str) -> Iterator[None]:
    """Turns the errors of torch's exporters into one sentence."""
    try:
        yield
    except (RuntimeError, NotImplementedError, ValueError, TypeError, torch.onnx.errors.OnnxExporterError) as error:
        line = (str(error).strip().splitlines() or [type(error).__name__])[0][:160].rstrip(".")
        raise Unsupported(
            f"torch can't write '{name}' as ONNX ({line}); export the network itself, or give the module that it was made from."
        ) from error
