"""A compressed torch model on disk: its plan, its tensors, and the form of its inputs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dyncompress.coding.whole_files import deliver
from dyncompress.errors import InvalidRequest
from dyncompress.recipe.plan_file import plan_to_toml, read_plan
from dyncompress.recipe.text_files import json_table, read_bytes, read_text
from dyncompress.types import BLOCKS, CHANNELS, Compressed, Drop, Edit, Keep, Layer, LowRank

SCHEMA = 1
PLAN, WEIGHTS, FORM = "plan.toml", "weights.safetensors", "model.json"


def save_compressed(compressed: Compressed, directory: str | Path) -> Path:
    """Write a compressed model: its plan, its tensors, and the form of its inputs (no example of yours is stored).

    Returns:
        The directory; `load` gives the module back.

    Example:
        >>> import dyncompress, tempfile, torch
        >>> network = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 8))
        >>> x = torch.randn(64, 64)
        >>> plan = dyncompress.allocate(
        ...     dyncompress.measure(network, "edge-int8", target="onnxruntime-x86-vnni", calibration=x)
        ... )
        >>> small = dyncompress.apply(network, plan, calibration=x)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     sorted(path.name for path in dyncompress.save_compressed(small, folder).iterdir())
        ['model.json', 'plan.toml', 'weights.safetensors']
    """
    from safetensors.torch import save

    directory = Path(directory)
    state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in compressed.module.state_dict().items()}
    inputs = {name: [str(value.dtype).removeprefix("torch."), *value.shape] for name, value in _example(compressed).items()}
    form = {"format": "dyncompress.model", "schema": SCHEMA, "inputs": inputs}
    deliver(directory, {WEIGHTS: save(state), FORM: json.dumps(form) + "\n", PLAN: plan_to_toml(compressed.plan)})
    return directory


def load(model_fn: Callable[[], Any], directory: str | Path) -> Any:
    """The compressed torch module, rebuilt.

    Args:
        model_fn: returns a fresh, uncompressed network of the same architecture; its weights don't matter.
        directory: written by `save_compressed`.

    Returns:
        A module in eval mode that computes what the saved one computed: BatchNorm folded, channels removed, weights decoded.

    Raises:
        InvalidRequest: files are missing or broken, or the network isn't the one that was compressed.

    Example:
        >>> import dyncompress, tempfile, torch
        >>> def untrained():
        ...     return torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 8))
        >>> network, x = untrained(), torch.randn(64, 64)
        >>> plan = dyncompress.allocate(
        ...     dyncompress.measure(network, "edge-int8", target="onnxruntime-x86-vnni", calibration=x)
        ... )
        >>> small = dyncompress.apply(network, plan, calibration=x)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     again = dyncompress.load(untrained, dyncompress.save_compressed(small, folder))
        >>> torch.equal(again(x), small.module(x))
        True
    """
    from dyncompress.models.torch.opening import open_model

    directory = Path(directory)
    plan = read_plan(directory / PLAN)
    model = open_model(model_fn(), _stand_in(directory / FORM))
    for layer in model.layers():
        if layer.name in plan.shapes and plan.shapes[layer.name] != tuple(layer.shape):
            was = plan.shapes[layer.name]
            raise InvalidRequest(
                f"{directory}: layer '{layer.name}' has shape {tuple(layer.shape)}, saved was {was}; wrong network."
            )
    done = {unit.removeprefix(CHANNELS): choice for unit, choice in plan.realised.items() if unit.startswith(CHANNELS)}
    edits: list[Edit] = [Keep(group, choice.indices) for group, choice in done.items() if choice.indices is not None]
    edits += [Drop(unit.removeprefix(BLOCKS)) for unit, choice in plan.realised.items() if choice.drop]
    ranks = {unit: choice.rank for unit, choice in plan.realised.items() if choice.rank is not None}
    edits += [_thin(layer, ranks[layer.name]) for layer in model.layers() if layer.name in ranks]
    module = (model.edited(edits) if edits else model).module
    state = _tensors(directory / WEIGHTS)
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        line = str(error).splitlines()[-1].strip()
        raise InvalidRequest(f"{directory}: the saved tensors don't fit the network of model_fn: {line}") from error
    return module.eval()


def _thin(layer: Layer, rank: int) -> LowRank:
    """Two layers of zeros in place of one; the saved tensors fill them."""
    import torch

    if not 1 <= rank <= min(layer.out, layer.fan_in):
        most = min(layer.out, layer.fan_in)
        raise InvalidRequest(f"{PLAN}: layer '{layer.name}' was realised with rank {rank}; it can have a rank of 1 to {most}.")
    return LowRank(layer.name, torch.zeros(rank, *layer.shape[1:]), torch.zeros(layer.out, rank))


def _example(compressed: Compressed) -> Mapping[str, Any]:
    """Two examples' worth of inputs, for their form only."""
    batch = compressed.calibration[0] if compressed.calibration else compressed.model.example  # type: ignore[attr-defined]
    return {name: value[:2] for name, value in batch.items()}


def _stand_in(path: Path) -> dict[str, Any]:
    """Inputs of the saved form: zeros, and ones where they are integers (masks, token ids)."""
    import torch

    content = json_table(read_text(path, f"model {path}"), path.name)
    if content.get("format") != "dyncompress.model" or content.get("schema") != SCHEMA:
        raise InvalidRequest(f"{path}: this is no compressed model of this version of dyncompress.")
    inputs = {}
    try:
        for name, (dtype, *shape) in content["inputs"].items():
            kind = getattr(torch, dtype)
            inputs[name] = torch.zeros(shape, dtype=kind) if kind.is_floating_point else torch.ones(shape, dtype=kind)
    except (KeyError, AttributeError, TypeError, ValueError, RuntimeError) as error:
        raise InvalidRequest(f"{path}: the form of the inputs can't be read ({error}); save the model again.") from error
    return inputs


def _tensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load as read_tensors

    try:
        return read_tensors(read_bytes(path, str(path)))
    except SafetensorError as error:
        raise InvalidRequest(f"{path}: truncated or no safetensors file.") from error
