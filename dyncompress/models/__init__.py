"""Model adapters: one sub-package a framework, and what a user calls data. `open_model` finds the adapter of a model.

A value that is a model adapter already (`types.Model`) is taken as it is, so that an adapter of one's own needs no change here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dyncompress.errors import Unsupported
from dyncompress.types import Batch, Model

__all__ = ["load", "open_model", "preprocessing_warning"]


SCRIPTS = (".pt", ".pth", ".ts", ".torchscript")


def load(model: Any) -> Any:
    """What a path names, read: the graph of an ONNX file, or a program that torch exported.

    A program in memory (`torch.export.ExportedProgram`, TorchScript) is brought into the same form. Any other model is returned
    as it is. Exported programs and TorchScript are read by torch: open only files that you trust.

    Raises:
        InvalidRequest: there is no such file, or it isn't what its name says.
        Unsupported: the file is of another kind, or torch can't write a program as ONNX.
    """
    if isinstance(model, str | Path):
        return _read(Path(model))
    kinds = {cls.__name__ for cls in type(model).__mro__}
    if "ExportedProgram" in kinds or "ScriptModule" in kinds:
        from dyncompress.models.onnx import programs  # torch is imported only where a model needs it

        return programs.graph_of_exported(model) if "ExportedProgram" in kinds else programs.script_of(model)
    return model


def _read(path: Path) -> Any:
    """The model of a file."""
    kind = path.suffix.lower()
    if kind == ".onnx":
        from dyncompress.models.onnx.reading import read_file

        return read_file(path)
    if kind == ".pt2" or kind in SCRIPTS:
        from dyncompress.models.onnx import programs

        return programs.read_exported(path) if kind == ".pt2" else programs.read_script(path)
    raise Unsupported(
        f"'{path}' is no ONNX file, exported program or TorchScript, by its name; give an .onnx, .pt2 or .pt file, a "
        "torch.nn.Module, or name a function that returns one."
    )


def open_model(model: Any, example: Batch, batch: Batch | None = None) -> Model:
    """The adapter of a model.

    Args:
        model: a `torch.nn.Module`, the path of an ONNX file or the graph read from it, a program that torch exported or the path
            of one, or a model adapter.
        example: two examples (or one) by input name, `[n, ...]`.
        batch: a whole batch as its owner makes them, for networks that run on no other size; None: the example.

    Raises:
        InvalidRequest: no adapter takes the model, or it doesn't run on the example.
        Unsupported: a part of it can't be edited.
    """
    model = load(model)
    if isinstance(model, Model):
        return model
    if hasattr(model, "input_names"):
        from dyncompress.models.onnx import opening as onnx_opening

        graph = model.graph(example) if hasattr(model, "graph") else model
        return onnx_opening.open_model(graph, example, batch)
    from dyncompress.models.torch import opening  # torch is imported only where a model needs it

    return opening.open_model(model, example, batch)


def preprocessing_warning(model: Any, batches: Sequence[Batch]) -> str | None:
    """A sentence where the data don't look like what the first layers were trained on, else None."""
    if isinstance(model, Model) or hasattr(model, "input_names"):
        return None
    from dyncompress.models.torch import folding

    return folding.preprocessing_warning(model, batches)
