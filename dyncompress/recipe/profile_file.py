"""Profiles as JSON text, and their files."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dyncompress.coding.whole_files import write_whole
from dyncompress.errors import InvalidRequest
from dyncompress.recipe.parsing import at, build
from dyncompress.recipe.text_files import json_table, read_text
from dyncompress.types import Profile

SCHEMA = 1
KIND = "dyncompress.profile"


def profile_to_json(profile: Profile) -> str:
    """The profile as JSON text; `profile_from_json` reads an equal profile from it."""
    content = {"format": KIND, "schema": SCHEMA, "profile": _json_value(profile)}
    return json.dumps(content, allow_nan=False, ensure_ascii=False, separators=(",", ":")) + "\n"


def profile_from_json(source: str | Path) -> Profile:
    """Read a profile.

    Args:
        source: the JSON text (`str`), or the path of its file (`Path`).

    Raises:
        InvalidRequest: there is no such file, it is truncated, it isn't a profile, or another version of the library wrote it.
    """
    name = source.name if isinstance(source, Path) else "profile"
    content = json_table(read_text(source, f"profile {source}") if isinstance(source, Path) else source, name)
    if isinstance(content.get("profile"), dict) and "format" not in content:
        content = content["profile"]  # the command line stores it beside a digest of what it depends on
    if content.get("format") != KIND or "profile" not in content:
        raise InvalidRequest(f"{name}: this is no profile of dyncompress.")
    if content.get("schema") != SCHEMA:
        raise InvalidRequest(f"{name}: schema {content.get('schema')} is read by another version; measure again with this one.")
    return _check_finite(build(Profile, content["profile"], at(name)), name)


def _check_finite(profile: Profile, name: str) -> Profile:
    """Return the profile; refuse one whose costs or distortions aren't finite, because no plan can be made from it."""
    for unit, options in profile.table.items():
        if not options or unit not in profile.source:
            raise InvalidRequest(f"{name}: unit '{unit}' has no options, or no source of its distortions; measure again.")
        for option in options:
            numbers = (option.bytes, option.macs, option.distortion, option.seconds)
            if not all(math.isfinite(number) for number in numbers):
                raise InvalidRequest(f"{name}: a cost or a distortion of unit '{unit}' isn't finite; measure again.")
    if not all(math.isfinite(value) and value >= 0 for value in (profile.seconds, profile.whole_seconds)):
        raise InvalidRequest(f"{name}: its seconds aren't finite numbers of at least 0; measure again.")
    if min(profile.float_bytes, profile.fixed_bytes, profile.macs) < 0 or not profile.float_bytes:
        raise InvalidRequest(f"{name}: its bytes or macs are below zero; measure again.")
    return profile


def save_profile(profile: Profile, path: str | Path) -> Path:
    """Write the profile to a file, whole or not at all, and return the path."""
    return write_whole(Path(path), profile_to_json(profile))


def load_profile(path: str | Path) -> Profile:
    """Read the profile of a file; raises the errors of `profile_from_json`."""
    return profile_from_json(Path(path))


def _json_value(value: Any) -> Any:
    """The value in types that JSON has; NaN and infinity become `{"float": "nan"}` and the like."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _json_value(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _json_value(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(entry) for entry in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    return value
