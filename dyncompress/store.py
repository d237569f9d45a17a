"""Values on disk: profiles as JSON, and a compressed torch model as its plan and its tensors."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dyncompress.delivery import deliver, write_whole
from dyncompress.errors import InvalidRequest
from dyncompress.planfile import plan_to_toml, read_plan
from dyncompress.strict import at, build
from dyncompress.text_files import read_bytes, read_text
from dyncompress.types import BLOCKS, CHANNELS, Compressed, Drop, Edit, Keep, Layer, LowRank, Profile

SCHEMA = 1
KIND = "dyncompress.profile"
PLAN, WEIGHTS, FORM = "plan.toml", "weights.safetensors", "model.json"


# ---------------------------------------------------------------- profiles
def profile_to_json(profile: Profile) -> str:
    """The profile as JSON text; `profile_from_json` gives an equal one."""
    content = {"format": KIND, "schema": SCHEMA, "profile": _plain(profile)}
    return json.dumps(content, allow_nan=False, ensure_ascii=False, separators=(",", ":")) + "\n"


def profile_from_json(source: str | Path) -> Profile:
    """The profile of a JSON text, or of a file where a `Path` is given.

    Raises:
        InvalidRequest: no such file, truncated, or not a profile of this version.
    """
    name = source.name if isinstance(source, Path) else "profile"
    content = _parsed(_text(source, "profile") if isinstance(source, Path) else source, name)
    if isinstance(content.get("profile"), dict) and "format" not in content:
        content = content["profile"]  # wrapped by the command line with what it depends on
    if content.get("format") != KIND or "profile" not in content:
        raise InvalidRequest(f"{name}: this is no profile of dyncompress.")
    if content.get("schema") != SCHEMA:
        raise InvalidRequest(f"{name}: schema {content.get('schema')} is read by another version; measure again with this one.")
    return _checked(build(Profile, content["profile"], at(name)), name)


def _checked(profile: Profile, name: str) -> Profile:
    """Refuse a profile whose costs or distortions aren't finite: no budget can be solved from it."""
    for unit, options in profile.table.items():
        if not options or unit not in profile.source:
            raise InvalidRequest(f"{name}: unit '{unit}' has no options, or no source of its distortions; measure again.")
        for option in options:
            told = (option.bytes, option.macs, option.distortion, option.seconds)
            if not all(math.isfinite(value) for value in told):
                raise InvalidRequest(f"{name}: a cost or a distortion of unit '{unit}' isn't finite; measure again.")
    if not all(math.isfinite(value) and value >= 0 for value in (profile.seconds, profile.whole_seconds)):
        raise InvalidRequest(f"{name}: its seconds aren't finite numbers of at least 0; measure again.")
    if min(profile.float_bytes, profile.fixed_bytes, profile.macs) < 0 or not profile.float_bytes:
        raise InvalidRequest(f"{name}: its bytes or macs are below zero; measure again.")
    return profile


def save_profile(profile: Profile, path: str | Path) -> Path:
    """Write the profile, whole or not at all."""
    return write_whole(Path(path), profile_to_json(profile))


def load_profile(path: str | Path) -> Profile:
    """The profile of a file; raises as `profile_from_json`."""
    return profile_from_json(Path(path))


def _plain(value: Any) -> Any:
    """JSON without NaN: numbers that JSON lacks are written `{"float": "nan"}`."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    return value


def _text(path: Path, kind: str) -> str:
    return read_text(path, f"{kind} {path}")


def _parsed(text: str, name: str) -> dict[str, Any]:
    try:
        content = json.loads(text, object_pairs_hook=_pairs, parse_constant=_refuse_constant, parse_float=_finite)
        if "\\ud" in text.lower():  # half of a character of two: nothing could be written with it
            json.dumps(content, ensure_ascii=False).encode()
    except InvalidRequest as error:
        raise InvalidRequest(f"{name}: {error}.") from error
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"{name}: the file is truncated or no JSON ({error}).") from error
    if not isinstance(content, dict):
        raise InvalidRequest(f"{name}: this is no file of dyncompress.")
    return content


def _refuse_constant(word: str) -> Any:
    """NaN and infinities are no JSON; ours stand as texts."""
    raise InvalidRequest(f'{word} is no JSON; write {{"float": "{word.lower()}"}}')


def _finite(digits: str) -> float:
    """A number as JSON writes it; one with too large an exponent would be read as infinity."""
    return float(digits) if math.isfinite(float(digits)) else _refuse_constant(digits)


def _pairs(found: list[tuple[str, Any]]) -> Any:
    """An object, every key once; `{"float": "nan"}` is the number."""
    table = dict(found)
    if len(table) < len(found):
        keys = [key for key, _ in found]
        raise InvalidRequest(f"key '{max(keys, key=keys.count)}' stands twice in one object; write it once")
    if table.keys() == {"float"} and isinstance(table["float"], str):
        try:
            return float(table["float"])
        except ValueError as error:
            raise InvalidRequest(f"'{table['float']}' is no number") from error
    return table


# ---------------------------------------------------------------- compressed torch models
def save_compressed(compressed: Compressed, directory: str | Path) -> Path:
    """Write a compressed model: its plan, its tensors, and the form of its inputs (no example of yours is stored).

    Returns:
        The directory; `load` gives the module back.
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
    """
    from dyncompress.models.torch import open_model

    directory = Path(directory)
    plan = read_plan(directory / PLAN)
    door = open_model(model_fn(), _stand_in(directory / FORM))
    for layer in door.layers():
        if layer.name in plan.shapes and plan.shapes[layer.name] != tuple(layer.shape):
            was = plan.shapes[layer.name]
            raise InvalidRequest(
                f"{directory}: layer '{layer.name}' has shape {tuple(layer.shape)}, saved was {was}; wrong network."
            )
    done = {unit.removeprefix(CHANNELS): choice for unit, choice in plan.realised.items() if unit.startswith(CHANNELS)}
    edits: list[Edit] = [Keep(group, choice.indices) for group, choice in done.items() if choice.indices is not None]
    edits += [Drop(unit.removeprefix(BLOCKS)) for unit, choice in plan.realised.items() if choice.drop]
    ranks = {unit: choice.rank for unit, choice in plan.realised.items() if choice.rank is not None}
    edits += [_thin(layer, ranks[layer.name]) for layer in door.layers() if layer.name in ranks]
    module = (door.edited(edits) if edits else door).module
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

    content = _parsed(_text(path, "model"), path.name)
    if content.get("format") != "dyncompress.model" or content.get("schema") != SCHEMA:
        raise InvalidRequest(f"{path}: this is no compressed model of this version of dyncompress.")
    found = {}
    try:
        for name, (dtype, *shape) in content["inputs"].items():
            kind = getattr(torch, dtype)
            found[name] = torch.zeros(shape, dtype=kind) if kind.is_floating_point else torch.ones(shape, dtype=kind)
    except (KeyError, AttributeError, TypeError, ValueError, RuntimeError) as error:
        raise InvalidRequest(f"{path}: the form of the inputs can't be read ({error}); save the model again.") from error
    return found


def _tensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load as read_tensors

    try:
        return read_tensors(read_bytes(path, str(path)))
    except SafetensorError as error:
        raise InvalidRequest(f"{path}: truncated or no safetensors file.") from error
