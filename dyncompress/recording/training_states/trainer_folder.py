"""Folders in which transformers' Trainer and accelerate keep a checkpoint: weights, state of the optimizer, and numbers."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from dyncompress.errors import InvalidRequest
from dyncompress.recording.training_states.contents import Contents, Weights, contents_of
from dyncompress.recording.training_states.tensor_files import read_tensors

OPTIMIZERS = ("optimizer.pt", "optimizer.bin")
CLIPPED_OFTEN = 0.1  # share of logged steps above the largest norm from which squares are those of clipped gradients


def is_trainer_folder(path: Path) -> bool:
    """Whether a folder holds the state of an optimizer in a file of its own."""
    return any((path / name).is_file() for name in OPTIMIZERS)


def trainer_contents(path: Path) -> Contents:
    """What a folder holds.

    The batch size is that of a device in `trainer_state.json`, times the accumulated batches of `training_args.bin` and the
    number of processes, each of which leaves a state of its random numbers.

    Raises:
        InvalidRequest: a file in it can't be read.
    """
    optimizer = read_tensors(next(path / name for name in OPTIMIZERS if (path / name).is_file()))
    inside = [f for f in sorted(path.iterdir()) if f.name.startswith(("model", "pytorch_model"))]
    files = [f for f in inside if f.suffix == ".bin"] or [f for f in inside if f.suffix == ".safetensors"]
    weights: dict[str, Any] = {}
    for file in files:
        part = read_tensors(file)
        weights |= part if isinstance(part, Mapping) else {}
    contents = contents_of({"optimizer": optimizer, "model": weights})
    if files and files[0].suffix == ".safetensors":
        order = {name: place for place, name in enumerate(_order(path))}
        contents.weights = [_in_order(one, order) for one in contents.weights]
    state, arguments = _json(path / "trainer_state.json"), _arguments(path / "training_args.bin")
    numbers = {key: state.get(key) for key in ("global_step", "train_batch_size")}
    numbers["gradient_accumulation_steps"] = arguments.get("gradient_accumulation_steps", 1)
    contents.numbers |= {key: float(value) for key, value in numbers.items() if isinstance(value, int | float)}
    if "train_batch_size" in contents.numbers:
        contents.numbers["train_batch_size"] *= max(1, len(list(path.glob("rng_state_*.pth"))))
    _note_clipping(contents, state, arguments)
    return contents


def _in_order(weights: Weights, order: Mapping[str, int]) -> Weights:
    """A set of weights in the model's order, if it is known of all of them."""
    if not weights.tensors.keys() <= order.keys():
        return replace(weights, ordered=False)
    return replace(weights, tensors=dict(sorted(weights.tensors.items(), key=lambda item: order[item[0]])))


def _order(path: Path) -> list[str]:
    """Names of a model's parameters in order, from the class of transformers that `config.json` names; empty if unknown.

    The model is made without memory for its weights, and classes of other packages aren't loaded.
    """
    config = _json(path / "config.json")
    names = config.get("architectures")
    if not isinstance(names, list) or len(names) != 1 or importlib.util.find_spec("transformers") is None:
        return []
    import transformers

    kind = getattr(transformers, str(names[0]), None)
    if not (isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)):
        return []
    try:
        with torch.device("meta"):
            configuration: Any = kind.config_class
            made: Any = kind(configuration.from_dict(dict(config)))
    except (TypeError, ValueError, LookupError, AttributeError, RuntimeError, ArithmeticError, ImportError, OSError):
        return []
    return [name for name, _ in made.named_parameters()]


def _json(path: Path) -> Mapping[str, Any]:
    """A file of JSON; empty if it is missing.

    Raises:
        InvalidRequest: it isn't one.
    """
    if not path.is_file():
        return {}
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise InvalidRequest(f"'{path}' can't be read ({str(error)[:80]}); save or copy it again.") from error
    return read if isinstance(read, Mapping) else {}


def _arguments(path: Path) -> Mapping[str, Any]:
    """The Trainer's arguments, which are pickled: their plain values. Empty if they can't be read."""
    if not path.is_file():
        return {}
    try:
        return vars(read_tensors(path))
    except (InvalidRequest, TypeError):
        return {}


def _note_clipping(contents: Contents, state: Mapping[str, Any], arguments: Mapping[str, Any]) -> None:
    """Note that gradients were clipped, if they were in more than a few of the later logged steps."""
    log = state.get("log_history")
    norms = [one["grad_norm"] for one in log if isinstance(one, Mapping) and "grad_norm" in one] if isinstance(log, list) else []
    norms = [float(norm) for norm in norms if isinstance(norm, int | float)][len(norms) // 2 :]
    most = arguments.get("max_grad_norm")
    if not norms or not isinstance(most, int | float) or most <= 0:
        return
    share = sum(norm > most for norm in norms) / len(norms)
    if share > CLIPPED_OFTEN:
        contents.clipped = True
        contents.notes.append(f"gradients were clipped to norm {most:g} in {share:.0%} of the later steps that the run logged")
