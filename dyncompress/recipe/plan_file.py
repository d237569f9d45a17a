"""A plan as a text file that a person reads, edits and applies again; a wrong edit is an error with its line."""

from __future__ import annotations

import dataclasses
import json
import re
import tomllib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from dyncompress.errors import InvalidRequest, nearest
from dyncompress.recipe.choice_checks import misplaced, wrong_for_channels, wrong_for_layer
from dyncompress.recipe.parsing import Where, at, build, check_keys, read
from dyncompress.recipe.text_files import read_text, refuse_not_finite
from dyncompress.types import BLOCKS, CHANNELS, STRUCTURE, Choice, Layer, Plan

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

Places = Mapping[tuple[str, ...], str]  # (table, ..., key) -> `plan.toml line 41`; () -> the file's name


def plan_to_toml(plan: Plan) -> str:
    """The plan as TOML: what was asked, unit by unit with its reason as a comment, and what was realised."""
    head = [
        "# What dyncompress does to each layer. Edit the [unit] tables and apply the file again; the rest checks an edit.",
        "# weight_bits: 2 to 8, 32 leaves the weights float. sparsity: share of zeros. keep: number of channels that stay.",
        "# drop: whether a block goes, its layers' own tables with it.",
        "# The comment under a unit tells why, and of which choice; it is passed over where another one is written.",
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
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, or lists in lists in lists
        raise InvalidRequest(f"{name}: a value is too large to be read ({error}).") from error
    places = _places(text, name)
    check_keys(table, TABLES, lambda key: place(places, key))
    missing = [key for key in TABLES if key not in table and key not in ("unit", "realised", "left_alone", "shapes")]
    if missing:
        raise InvalidRequest(f"{name}: '{missing[0]}' is missing; the file is truncated or no plan.")
    head = {key: read(kind, table[key], f"{place(places, key)}: '{key}'") for key, kind in HEAD.items()}
    if head["schema"] != SCHEMA:
        raise InvalidRequest(
            f"{name}: schema {head['schema']} is read by another version of dyncompress; this one reads {SCHEMA}."
        )
    numbers, sizes = Mapping[str, float], Mapping[str, tuple[int, ...]]
    asked = _choices(table, "unit", places)
    plan = Plan(
        asked=asked,
        why=_reasons(text, asked),
        reasons=read(Mapping[str, str], table.get("left_alone", {}), f"{name}: 'left_alone'"),
        cost=read(numbers, table["cost"], f"{name}: 'cost'"),
        distortion=head["distortion"],
        gap=head["gap"],
        recipe=head["recipe"],
        target=head["target"],
        digest=head["digest"],
        shapes=read(sizes, table.get("shapes", {}), f"{name}: 'shapes'"),
        share_left_alone=read(numbers, table["share_left_alone"], f"{name}: 'share_left_alone'"),
        realised=_choices(table, "realised", places),
        source=places,
    )
    for key in ("cost", "share_left_alone", "realised"):  # units are checked with their lines; a distortion may be unknown, nan
        refuse_not_finite(table.get(key, {}), place(places, key), key)
    for what, count, there in (("units", head["units"], len(plan.asked)), ("layers", head["layers"], len(plan.shapes))):
        if count != there:
            hint = (
                "the file is truncated, or a table was removed (to leave a layer as it is, write weight_bits = 32, sparsity = 0)"
            )
            raise InvalidRequest(f"{name} tells of {count} {what} and holds {there}; {hint}.")
    for layer, shape in plan.shapes.items():
        if not shape or min(shape) < 1:
            raise InvalidRequest(f"{place(places, 'shapes', layer)}: {list(shape)} is no weight's shape; restore the file's own.")
    _check_units(plan, places, plan.shapes, None, BITS)
    return plan


def read_plan(path: str | Path) -> Plan:
    """The plan of a file.

    Raises:
        InvalidRequest: no such file, not text, or as `plan_from_toml`.
    """
    return plan_from_toml(read_text(Path(path), f"plan {path}"), path)


def handwritten(text: str, plan: Plan) -> list[str]:
    """The comments of a plan's text that `plan_to_toml` wouldn't write again.

    Args:
        text: of the file.
        plan: read from it.
    """
    ours = {line for line in plan_to_toml(plan).split("\n") if line.startswith("#")}
    found, before = [], ""
    for line in (line.strip() for line in text.split("\n")):
        reason = before.startswith("[unit.") and re.match(r"# [^:]*: ", line)  # ours, of a choice that was edited since
        bare = re.sub(r'"(?:[^"\\]|\\.)*"|\'[^\']*\'', "", line)  # without its quoted texts
        if "#" in bare and line not in ours and not reason and not line.startswith("# note: "):
            found.append(line[line.index("#") :])
        before = line
    return found


def check_plan(
    plan: Plan,
    layers: Sequence[Layer],
    *,
    weight_bits: Collection[int] = BITS,
    splits: Collection[str] | None = None,
    blocks: Collection[str] | None = None,
    text: str = "",
    path: str | Path = "plan",
) -> None:
    """Refuse a plan that doesn't fit these layers.

    Args:
        plan: asked choices are checked.
        layers: of the model it shall be applied to.
        weight_bits: widths that the target stores.
        splits, blocks: layers that can have a rank, and units of blocks that can be dropped; None: not known.
        text, path: of the plan's file, for line numbers; without a text those that the plan was read with.

    Raises:
        InvalidRequest: shapes differ, a unit doesn't exist, or a choice isn't possible.
    """
    places = _places(text.replace("\r\n", "\n"), Path(path).name) if text else plan.source or {(): Path(path).name}
    shapes = {layer.name: tuple(layer.shape) for layer in layers}
    for layer, shape in plan.shapes.items():
        where = place(places, "shapes", layer)
        if layer not in shapes:
            raise InvalidRequest(f"{where}: the model has no layer '{layer}'{nearest(layer, shapes)}")
        if shapes[layer] != tuple(shape):
            raise InvalidRequest(f"{where}: layer '{layer}' has shape {shapes[layer]}, the plan was made for {tuple(shape)}.")
    groups = {CHANNELS + layer.group: layer.out for layer in layers if layer.group}
    _check_units(plan, places, shapes, groups, weight_bits)
    _check_structure(plan, places, layers, splits, blocks)


def place(places: Places, *path: str) -> str:
    """`plan.toml line 41`, of a key or of the nearest table around it that has a line; the file's name where none has."""
    return next((places[path[:end]] for end in range(len(path), -1, -1) if path[:end] in places), "plan")


# ---------------------------------------------------------------- checks
def _check_units(
    plan: Plan,
    places: Places,
    shapes: Mapping[str, tuple[int, ...]],
    groups: Mapping[str, int] | None,
    weight_bits: Collection[int],
) -> None:
    """Every choice against its unit; without a model (None) no channel group's size is known."""
    known = [*shapes, *(groups or ())]
    for unit, choice in plan.asked.items():
        if unit.startswith(BLOCKS):
            _check_block(unit, shapes, place(places, "unit", unit))
        elif unit.startswith(CHANNELS):
            if groups is not None and unit not in groups:
                raise _unknown(unit, place(places, "unit", unit), known)
        elif unit not in shapes:
            raise _unknown(unit, place(places, "unit", unit), known)
        wrong = misplaced(unit, choice)
        if wrong is None and unit.startswith(CHANNELS):
            wrong = wrong_for_channels(choice, None if groups is None else groups[unit])
        elif wrong is None and not unit.startswith(BLOCKS):
            wrong = wrong_for_layer(choice, shapes[unit], weight_bits)
        if wrong is None and unit in plan.reasons and choice != Choice():
            wrong = "", f"it is left alone, {plan.reasons[unit]}; leave its table out."
        if wrong is not None:
            raise InvalidRequest(f"{place(places, 'unit', unit, wrong[0])}: unit '{unit}': {wrong[1]}")


def _unknown(unit: str, where: str, known: Collection[str]) -> InvalidRequest:
    return InvalidRequest(f"{where}: the model has no unit '{unit}'{nearest(unit, known)}")


def _check_block(unit: str, shapes: Mapping[str, tuple[int, ...]], where: str) -> None:
    """A block holds layers; whether it can be dropped, the model says."""
    inside = unit.removeprefix(BLOCKS) + "."
    if not any(layer.startswith(inside) for layer in shapes):
        raise _unknown(unit, where, [BLOCKS + name.rpartition(".")[0] for name in shapes])


def _check_structure(
    plan: Plan, places: Places, layers: Sequence[Layer], splits: Collection[str] | None, blocks: Collection[str] | None
) -> None:
    """What only the model can tell: which weights can be compressed at all, which layers split, which blocks dropped."""
    alone = {layer.name: layer.left_alone for layer in layers if layer.left_alone}
    for unit, choice in plan.asked.items():
        key, reason = "", ""
        if unit in alone and choice != Choice():
            reason = f"its weight can't be compressed, {alone[unit]}; leave its table out."
        elif choice.rank is not None and splits is not None and unit not in splits:
            key, reason = "rank", f"rank is {choice.rank}; two layers can't take the place of this one; leave rank out."
        elif choice.drop and blocks is not None and unit not in blocks:
            known = f"this model offers {', '.join(sorted(blocks)) or 'none'}"
            key, reason = "drop", f"there is no block '{unit.removeprefix(BLOCKS)}' that its shortcut can replace; {known}."
        if reason:
            raise InvalidRequest(f"{place(places, 'unit', unit, key)}: unit '{unit}': {reason}")


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
    comment = [f"{_reason_of(choice)}{' '.join(why.split())}"] if why else []
    return ["", f"[{kind}.{_value(unit)}]", *comment, *_lines(shown)]


def _reason_of(choice: Choice) -> str:
    """How the comment begins that is the reason for exactly this choice."""
    changed = {f.name: value for f in dataclasses.fields(Choice) if (value := getattr(choice, f.name)) != f.default}
    return f"# {', '.join(f'{name} {_value(value)}' for name, value in changed.items()) or 'as it is'}: "


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


def _places(text: str, name: str) -> Places:
    """Where every table and key of a text stands."""
    return {(): name, **{path: f"{name} line {number}" for path, number in line_numbers(text).items()}}


def _choices(table: Mapping[str, Any], kind: str, places: Places) -> dict[str, Choice]:
    def where(unit: str) -> Where:
        return lambda key: place(places, kind, unit, key)

    units = table.get(kind, {})
    check_keys(units, units if isinstance(units, Mapping) else (), at(place(places, kind)))
    return {unit: build(Choice, fields, where(unit)) for unit, fields in units.items()}


def _reasons(text: str, asked: Mapping[str, Choice]) -> dict[str, str]:
    """The comment under each unit's header, where it is about the choice that stands there."""
    rows, found = text.split("\n"), {}
    for path, number in line_numbers(text).items():
        if len(path) != 2 or path[0] != "unit" or path[1] not in asked or number >= len(rows):
            continue
        begins = _reason_of(asked[path[1]])
        if rows[number].startswith(begins):
            found[path[1]] = rows[number].removeprefix(begins).strip()
    return found


def _broken(name: str, message: str) -> str:
    """tomllib's message as ours: `(at line 41, column 7)` goes to the front."""
    place = re.search(r"\s*\(at line (\d+), column \d+\)", message)
    if place is None:
        return f"{name}: {message.replace(' (at end of document)', '')} at the end: the file is truncated."
    return f"{name} line {place.group(1)}: {message[: place.start()]}."
