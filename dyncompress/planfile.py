"""A plan as a text file that a person reads, edits and applies again; a wrong edit is an error with its line."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import tomllib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from dyncompress.errors import InvalidRequest
from dyncompress.strict import Where, at, build, check_keys, nearest, read
from dyncompress.types import BLOCKS, CHANNELS, FLOAT_BITS, STRUCTURE, Choice, Layer, Plan

SCHEMA = 1
ALWAYS = ("weight_bits", "sparsity", "granularity", "activation_bits")  # written even where they are the default: to be edited
HEAD = {
    "schema": int,
    "recipe": str,
    "target": str,
    "digest": str,
    "distortion": float,
    "gap": float,
    "units": int,
    "layers": int,
}
TABLES = (*HEAD, "cost", "share_left_alone", "unit", "realised", "left_alone", "shapes")
BITS = (2, 3, 4, 5, 6, 7, 8)


def plan_to_toml(plan: Plan) -> str:
    """The plan as TOML: what was asked, unit by unit with its reason as a comment, and what was realised."""
    head = [
        "# What dyncompress does to each layer. Edit the [unit] tables and apply the file again; the rest checks an edit.",
        "# weight_bits: 2 to 8, 32 leaves the weights float. sparsity: share of zeros. keep: number of channels that stay.",
        "# drop: whether a block goes, its layers' own tables with it.",
        *(f"# note: {' '.join(note.split())}" for note in plan.notes),
        *_lines({"schema": SCHEMA, "recipe": plan.recipe, "target": plan.target, "digest": plan.digest}),
        *_lines({"distortion": plan.distortion, "gap": plan.gap, "units": len(plan.asked), "layers": len(plan.shapes)}),
        *_section("cost", plan.cost),
        *_section("share_left_alone", plan.share_left_alone),
    ]
    units = [line for unit, choice in plan.asked.items() for line in _unit("unit", unit, choice, plan.why.get(unit, ""))]
    done = [line for unit, choice in plan.realised.items() for line in _unit("realised", unit, choice, "")]
    tail = [*_section("left_alone", plan.reasons), *_section("shapes", {name: list(s) for name, s in plan.shapes.items()})]
    return "\n".join([*head, *units, *done, *tail]) + "\n"


def plan_from_toml(text: str, path: str | Path = "plan.toml") -> Plan:
    """The plan of a text; the reverse of `plan_to_toml`.

    Args:
        text: of the file.
        path: for messages.

    Raises:
        InvalidRequest: broken or truncated text, an unknown key, or a choice that no layer of that shape can have, each with
            its line.
    """
    name, text = Path(path).name, text.replace("\r\n", "\n")
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidRequest(_broken(name, str(error))) from error
    lines = line_numbers(text)
    check_keys(table, TABLES, lambda key: _place(name, lines, (key,)))
    missing = [key for key in TABLES if key not in table and key not in ("unit", "realised", "left_alone", "shapes")]
    if missing:
        raise InvalidRequest(f"{name}: '{missing[0]}' is missing; the file is truncated or no plan.")
    head = {key: read(kind, table[key], f"{_place(name, lines, (key,))}: '{key}'") for key, kind in HEAD.items()}
    if head["schema"] != SCHEMA:
        raise InvalidRequest(
            f"{name}: schema {head['schema']} is read by another version of dyncompress; this one reads {SCHEMA}."
        )
    numbers, sizes = Mapping[str, float], Mapping[str, tuple[int, ...]]
    plan = Plan(
        asked=_choices(table, "unit", name, lines),
        why=_reasons(text, lines),
        reasons=read(Mapping[str, str], table.get("left_alone", {}), f"{name}: 'left_alone'"),
        cost=read(numbers, table["cost"], f"{name}: 'cost'"),
        distortion=head["distortion"],
        gap=head["gap"],
        recipe=head["recipe"],
        target=head["target"],
        digest=head["digest"],
        shapes=read(sizes, table.get("shapes", {}), f"{name}: 'shapes'"),
        share_left_alone=read(numbers, table["share_left_alone"], f"{name}: 'share_left_alone'"),
        realised=_choices(table, "realised", name, lines),
    )
    for what, count, there in (("units", head["units"], len(plan.asked)), ("layers", head["layers"], len(plan.shapes))):
        if count != there:
            hint = (
                "the file is truncated, or a table was removed (to leave a layer as it is, write weight_bits = 32, sparsity = 0)"
            )
            raise InvalidRequest(f"{name} tells of {count} {what} and holds {there}; {hint}.")
    _check_units(plan.asked, plan.shapes, {}, BITS, name, lines)
    return plan


def read_plan(path: str | Path) -> Plan:
    """The plan of a file.

    Raises:
        InvalidRequest: no such file, not text, or as `plan_from_toml`.
    """
    try:
        return plan_from_toml(Path(path).read_text(encoding="utf-8-sig"), path)
    except OSError as error:
        raise InvalidRequest(f"plan {path}: {str(error.strerror).lower()}.") from error
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"plan {path}: it is no text; a plan is a TOML file.") from error


def check_plan(
    plan: Plan, layers: Sequence[Layer], *, weight_bits: Collection[int] = BITS, text: str = "", path: str | Path = "plan"
) -> None:
    """Refuse a plan that doesn't fit these layers.

    Args:
        plan: asked choices are checked.
        layers: of the model it shall be applied to.
        weight_bits: widths that the target stores.
        text: of the plan's file, for line numbers.
        path: for messages.

    Raises:
        InvalidRequest: shapes differ, a unit doesn't exist, or a choice isn't possible.
    """
    name, lines = Path(path).name, line_numbers(text.replace("\r\n", "\n"))
    shapes = {layer.name: tuple(layer.shape) for layer in layers}
    for layer, shape in plan.shapes.items():
        place = _place(name, lines, ("shapes", layer))
        if layer not in shapes:
            raise InvalidRequest(f"{place}: the model has no layer '{layer}'{nearest(layer, shapes)}")
        if shapes[layer] != tuple(shape):
            raise InvalidRequest(f"{place}: layer '{layer}' has shape {shapes[layer]}, the plan was made for {tuple(shape)}.")
    groups = {CHANNELS + layer.group: layer.out for layer in layers if layer.group}
    _check_units(plan.asked, shapes, groups, weight_bits, name, lines)


# ---------------------------------------------------------------- checks
def _check_units(
    asked: Mapping[str, Choice],
    shapes: Mapping[str, tuple[int, ...]],
    groups: Mapping[str, int],
    weight_bits: Collection[int],
    name: str,
    lines: Mapping[tuple[str, ...], int],
) -> None:
    """Every choice against its unit; channel groups only where their sizes are known."""
    for unit, choice in asked.items():
        if unit.startswith(BLOCKS):
            _check_block(unit, shapes, _place(name, lines, ("unit", unit)))
            continue
        known = groups if unit.startswith(CHANNELS) else shapes
        if unit not in known and (groups or not unit.startswith(CHANNELS)):
            place = _place(name, lines, ("unit", unit))
            raise InvalidRequest(f"{place}: the model has no unit '{unit}'{nearest(unit, [*shapes, *groups])}")
        channels = groups.get(unit) if unit.startswith(CHANNELS) else shapes[unit][0]
        wrong = _wrong(choice, channels, weight_bits)
        if wrong:
            key, message = wrong
            raise InvalidRequest(f"{_place(name, lines, ('unit', unit, key))}: unit '{unit}': {message}")


def _check_block(unit: str, shapes: Mapping[str, tuple[int, ...]], place: str) -> None:
    """A block holds layers; whether it can be dropped, the model says when it is."""
    inside = unit.removeprefix(BLOCKS) + "."
    if not any(layer.startswith(inside) for layer in shapes):
        blocks = [BLOCKS + name.rpartition(".")[0] for name in shapes]
        raise InvalidRequest(f"{place}: the model has no unit '{unit}'{nearest(unit, blocks)}")


def _wrong(choice: Choice, channels: int | None, weight_bits: Collection[int]) -> tuple[str, str] | None:
    """The first field that can't be, with a sentence."""
    if choice.weight_bits not in (*weight_bits, FLOAT_BITS):
        widths = ", ".join(map(str, sorted(weight_bits)))
        return "weight_bits", f"weight_bits is {choice.weight_bits}; {widths} or {FLOAT_BITS} (float) are possible."
    if not 0 <= choice.sparsity < 1:
        return "sparsity", f"sparsity is {choice.sparsity:g}; a share of zeros in [0, 1) is needed, e.g. 0.5."
    if choice.keep is not None and not 1 <= choice.keep <= (channels or math.inf):
        return "keep", f"keep is {choice.keep}; it has {channels or 'at least 1'} channels."
    if choice.indices is not None and (choice.keep != len(choice.indices) or len(set(choice.indices)) != len(choice.indices)):
        return (
            "indices",
            f"indices name {len(set(choice.indices))} different channels and keep is {choice.keep}; they have to agree.",
        )
    if choice.indices is not None and not all(0 <= i < (channels or math.inf) for i in choice.indices):
        return "indices", f"indices reach beyond its {channels} channels."
    if choice.pattern and not re.fullmatch(r"[1-9]\d*:[1-9]\d*", choice.pattern):
        return "pattern", f"pattern is '{choice.pattern}'; write '2:4', or leave it out."
    if choice.granularity not in ("tensor", "channel") and not re.fullmatch(r"group:[1-9]\d*", choice.granularity):
        return "granularity", f"granularity is '{choice.granularity}'; 'tensor', 'channel' or 'group:32' is needed."
    if choice.activation_bits not in (8, FLOAT_BITS):
        return "activation_bits", f"activation_bits is {choice.activation_bits}; 8 or {FLOAT_BITS} (float) is needed."
    return None


# ---------------------------------------------------------------- writing
def _lines(values: Mapping[str, Any]) -> list[str]:
    return [f"{_key(key)} = {_value(value)}" for key, value in values.items()]


def _section(name: str, values: Mapping[str, Any]) -> list[str]:
    return ["", f"[{name}]", *_lines(values)]


def _unit(kind: str, unit: str, choice: Choice, why: str) -> list[str]:
    default = Choice()
    fields = {f.name: getattr(choice, f.name) for f in dataclasses.fields(Choice)}
    structure = unit.startswith(STRUCTURE)
    shown = {k: v for k, v in fields.items() if v != getattr(default, k) or (k in ALWAYS and not structure and kind == "unit")}
    comment = [f"# {' '.join(why.split())}"] if why else []
    return ["", f"[{kind}.{_value(unit)}]", *comment, *_lines(shown)]


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _value(key)


def _value(value: Any) -> str:
    """TOML of a plain value: text, number, true or false, or a list of them."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, str):  # TOML's basic strings are JSON's but for DEL, which json leaves bare
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(int(value)) if isinstance(value, int) else repr(float(value))


# ---------------------------------------------------------------- reading
def line_numbers(text: str) -> dict[tuple[str, ...], int]:
    """(table, ..., key) -> line, from 1; `(table, ...)` is its header's line."""
    found: dict[tuple[str, ...], int] = {}
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.split("\n"), 1):  # as TOML counts: splitlines() would also break at U+2028
        path = _path_of(line)
        if path is None:
            continue
        if line.lstrip().startswith("["):
            table = path
            found.setdefault(table, number)
        else:
            found.setdefault((*table, *path), number)
    return found


def _path_of(line: str) -> tuple[str, ...] | None:
    """The dotted name that a header or a `key = value` line defines; None for any other line."""
    header = line.lstrip().startswith("[")
    key = re.match(
        r"""\s*((?:[A-Za-z0-9_-]+|"(?:[^"\\]|\\.)*"|'[^']*')(?:\s*\.\s*(?:[A-Za-z0-9_-]+|"(?:[^"\\]|\\.)*"))*)\s*=""", line
    )
    if not header and key is None:
        return None
    try:
        node: Any = tomllib.loads(line if key is None or header else f"{key.group(1)} = 0")
    except tomllib.TOMLDecodeError:
        return None
    path = []
    while isinstance(node, dict) and node:
        word, node = next(iter(node.items()))
        path.append(word)
    return tuple(path)


def _place(name: str, lines: Mapping[tuple[str, ...], int], path: tuple[str, ...]) -> str:
    """`plan.toml line 41`, of the key or of the nearest table around it that has a line."""
    for end in range(len(path), 0, -1):
        if path[:end] in lines:
            return f"{name} line {lines[path[:end]]}"
    return name


def _choices(table: Mapping[str, Any], kind: str, name: str, lines: Mapping[tuple[str, ...], int]) -> dict[str, Choice]:
    def where(unit: str) -> Where:
        return lambda key: _place(name, lines, (kind, unit, key))

    units = table.get(kind, {})
    check_keys(units, units if isinstance(units, Mapping) else (), at(_place(name, lines, (kind,))))
    return {unit: build(Choice, fields, where(unit)) for unit, fields in units.items()}


def _reasons(text: str, lines: Mapping[tuple[str, ...], int]) -> dict[str, str]:
    """The comment under each unit's header."""
    rows = text.split("\n")
    found = {}
    for path, number in lines.items():
        if len(path) == 2 and path[0] == "unit" and number < len(rows) and rows[number].startswith("# "):
            found[path[1]] = rows[number][2:].strip()
    return found


def _broken(name: str, message: str) -> str:
    """tomllib's message as ours: `(at line 41, column 7)` goes to the front."""
    place = re.search(r"\s*\(at line (\d+), column \d+\)", message)
    if place is None:
        return f"{name}: {message.replace(' (at end of document)', '')} at the end: the file is truncated."
    return f"{name} line {place.group(1)}: {message[: place.start()]}."
