"""Plans as TOML text that a person reads, edits and applies; an error in an edited file names its line."""

from __future__ import annotations

import dataclasses
import json
import re
import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dyncompress.errors import InvalidRequest, nearest
from dyncompress.recipe.choice_checks import channels_fault, kind_fault, layer_fault
from dyncompress.recipe.parsing import Where, at, build, check_keys, read
from dyncompress.recipe.text_files import read_text, refuse_not_finite
from dyncompress.types import BLOCKS, CHANNELS, STRUCTURE, Choice, Layer, Plan

SCHEMA = 1
ALWAYS = ("weight_bits", "sparsity", "granularity", "activation_bits")  # also written with default values, for editing
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

Places = Mapping[tuple[str, ...], str]  # (table, ..., key) -> its position, `plan.toml line 41`; () -> the file's name


def plan_to_toml(plan: Plan) -> str:
    """The plan as TOML text.

    Every unit has a table `[unit."name"]` with the choice that is asked for, and the reason for it as a comment. Tables
    `[realised."name"]` hold what was applied, where the plan was applied. `plan_from_toml` reads an equal plan from the text.
    """
    head = [
        "# What dyncompress does to each layer. Edit the [unit] tables and apply the file; the other tables check edits.",
        "# weight_bits: 2 to 8, 32 leaves the weights float. sparsity: share of zeros. keep: number of channels that stay.",
        "# drop: whether a block is removed; the tables of its layers then have no effect.",
        "# The comment under a unit gives the reason for the choice that it names; for any other choice it is ignored.",
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
    """The plan of a TOML text that `plan_to_toml` or a person wrote.

    Args:
        text: of the file.
        path: of the file; its name occurs in messages.

    Raises:
        InvalidRequest: the text is broken or truncated, a key is unknown, or no layer of that shape can have a choice. The
            message names the line.
    """
    name, text = Path(path).name, text.replace("\r\n", "\n")
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidRequest(_syntax_message(name, str(error))) from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, or too deeply nested lists
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
    for key in ("cost", "share_left_alone", "realised"):  # `_check_units` checks the units; an unknown distortion is nan
        refuse_not_finite(table.get(key, {}), place(places, key), key)
    for what, count, present in (("units", head["units"], len(plan.asked)), ("layers", head["layers"], len(plan.shapes))):
        if count != present:
            hint = (
                "the file is truncated, or a table was removed (to leave a layer as it is, write weight_bits = 32, sparsity = 0)"
            )
            raise InvalidRequest(f"{name} declares {count} {what} and holds {present}; {hint}.")
    for layer, shape in plan.shapes.items():
        if not shape or min(shape) < 1:
            raise InvalidRequest(f"{place(places, 'shapes', layer)}: {list(shape)} is no weight's shape; restore the file's own.")
    _check_units(plan, places, plan.shapes, None, BITS)
    return plan


def read_plan(path: str | Path) -> Plan:
    """Read the plan of a file.

    Raises:
        InvalidRequest: there is no such file, it isn't text, or for the reasons of `plan_from_toml`.
    """
    return plan_from_toml(read_text(Path(path), f"plan {path}"), path)


def user_comments(text: str, plan: Plan) -> list[str]:
    """The comments of a plan file that a person added: those that `plan_to_toml` wouldn't write.

    Args:
        text: of the file.
        plan: the plan that was read from it.
    """
    ours = {line for line in plan_to_toml(plan).split("\n") if line.startswith("#")}
    comments, before = [], ""
    for line in (line.strip() for line in text.split("\n")):
        reason = before.startswith("[unit.") and re.match(r"# [^:]*: ", line)  # of a choice that was edited since
        bare = re.sub(r'"(?:[^"\\]|\\.)*"|\'[^\']*\'', "", line)  # the line without quoted texts, which may hold a #
        if "#" in bare and line not in ours and not reason and not line.startswith("# note: "):
            comments.append(line[line.index("#") :])
        before = line
    return comments


@dataclass(frozen=True)
class Structure:
    """What can be removed from a model; None where that isn't known.

    Attributes:
        splits: names of the layers that two thin layers can replace.
        blocks: units of the residual blocks that can be dropped (`block:NAME`).
        groups: units of the channel groups (`channels:NAME`) -> number of channels.
    """

    splits: Collection[str] | None = None
    blocks: Collection[str] | None = None
    groups: Mapping[str, int] | None = None


def check_plan(
    plan: Plan,
    layers: Sequence[Layer],
    *,
    weight_bits: Collection[int] = BITS,
    structure: Structure | None = None,
) -> None:
    """Refuse a plan that can't be applied to a model with these layers.

    Args:
        plan: its asked choices are checked.
        layers: of the model.
        weight_bits: widths in bits that the target stores.
        structure: what can be removed; what isn't known isn't checked.

    Raises:
        InvalidRequest: a shape differs, a unit doesn't exist, or a choice isn't possible. The message names the line if the plan
            was read from a file.
    """
    places = plan.source or {(): "plan"}
    shapes = {layer.name: tuple(layer.shape) for layer in layers}
    for layer, shape in plan.shapes.items():
        where = place(places, "shapes", layer)
        if layer not in shapes:
            raise InvalidRequest(f"{where}: the model has no layer '{layer}'{nearest(layer, shapes)}")
        if shapes[layer] != tuple(shape):
            raise InvalidRequest(f"{where}: layer '{layer}' has shape {shapes[layer]}, the plan was made for {tuple(shape)}.")
    structure = structure or Structure()
    _check_units(plan, places, shapes, structure.groups, weight_bits)
    _check_structure(plan, places, layers, structure)


def place(places: Places, *path: str) -> str:
    """The position of a key, e.g. `plan.toml line 41`.

    Args:
        places: positions of the tables and keys, e.g. `Plan.source`.
        path: table, ..., key. Where the key isn't in the file, the position is that of the nearest table around it, else the
            file's name.
    """
    return next((places[path[:end]] for end in range(len(path), -1, -1) if path[:end] in places), "plan")


# ---------------------------------------------------------------- checks
def _check_units(
    plan: Plan,
    places: Places,
    shapes: Mapping[str, tuple[int, ...]],
    groups: Mapping[str, int] | None,
    weight_bits: Collection[int],
) -> None:
    """Check every choice against its unit. `groups` maps channel groups to their sizes; without a model it is None."""
    known = [*shapes, *(groups or ())]
    for unit, choice in plan.asked.items():
        if unit.startswith(BLOCKS):
            _check_block(unit, shapes, place(places, "unit", unit))
        elif unit.startswith(CHANNELS):
            if groups is not None and unit not in groups:
                raise _unknown(unit, place(places, "unit", unit), known)
        elif unit not in shapes:
            raise _unknown(unit, place(places, "unit", unit), known)
        fault = kind_fault(unit, choice)
        if fault is None and unit.startswith(CHANNELS):
            fault = channels_fault(choice, None if groups is None else groups[unit])
        elif fault is None and not unit.startswith(BLOCKS):
            fault = layer_fault(choice, shapes[unit], weight_bits)
        if fault is None and unit in plan.reasons and choice != Choice():
            fault = "", f"it is left alone, {plan.reasons[unit]}; leave its table out."
        if fault is not None:
            raise InvalidRequest(f"{place(places, 'unit', unit, fault[0])}: unit '{unit}': {fault[1]}")


def _unknown(unit: str, where: str, known: Collection[str]) -> InvalidRequest:
    return InvalidRequest(f"{where}: the model has no unit '{unit}'{nearest(unit, known)}")


def _check_block(unit: str, shapes: Mapping[str, tuple[int, ...]], where: str) -> None:
    """Refuse a block without layers; whether a block can be dropped is checked against the model."""
    inside = unit.removeprefix(BLOCKS) + "."
    if not any(layer.startswith(inside) for layer in shapes):
        raise _unknown(unit, where, [BLOCKS + name.rpartition(".")[0] for name in shapes])


def _check_structure(plan: Plan, places: Places, layers: Sequence[Layer], structure: Structure) -> None:
    """Check what only the model knows: weights that can't be compressed, layers that have a rank, droppable blocks."""
    alone = {layer.name: layer.left_alone for layer in layers if layer.left_alone}
    for unit, choice in plan.asked.items():
        key, reason = "", ""
        if unit in alone and choice != Choice():
            reason = f"its weight can't be compressed, {alone[unit]}; leave its table out."
        elif choice.rank is not None and structure.splits is not None and unit not in structure.splits:
            key, reason = "rank", f"rank is {choice.rank}; two layers can't take the place of this one; leave rank out."
        elif choice.drop and structure.blocks is not None and unit not in structure.blocks:
            known = f"this model offers {', '.join(sorted(structure.blocks)) or 'none'}"
            key, reason = "drop", f"there is no block '{unit.removeprefix(BLOCKS)}' that its shortcut can replace; {known}."
        if reason:
            raise InvalidRequest(f"{place(places, 'unit', unit, key)}: unit '{unit}': {reason}")


# ---------------------------------------------------------------- writing
def _lines(values: Mapping[str, Any]) -> list[str]:
    """Lines `key = value`."""
    return [f"{_key(key)} = {_value(value)}" for key, value in values.items()]


def _section(name: str, values: Mapping[str, Any]) -> list[str]:
    """A blank line, a table's header, and its lines."""
    return ["", f"[{name}]", *_lines(values)]


def _unit(kind: str, unit: str, choice: Choice, why: str) -> list[str]:
    """The table of one unit, with the reason for its choice as a comment."""
    default = Choice()
    fields = {f.name: getattr(choice, f.name) for f in dataclasses.fields(Choice)}
    structure = unit.startswith(STRUCTURE)
    shown = {k: v for k, v in fields.items() if v != getattr(default, k) or (k in ALWAYS and not structure and kind == "unit")}
    comment = [f"{_comment_beginning(choice)}{' '.join(why.split())}"] if why else []
    return ["", f"[{kind}.{_value(unit)}]", *comment, *_lines(shown)]


def _comment_beginning(choice: Choice) -> str:
    """The beginning of the comment that gives the reason for exactly this choice."""
    changed = {f.name: value for f in dataclasses.fields(Choice) if (value := getattr(choice, f.name)) != f.default}
    return f"# {', '.join(f'{name} {_value(value)}' for name, value in changed.items()) or 'as it is'}: "


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _value(key)


def _value(value: Any) -> str:
    """The TOML text of a string, number, boolean, or a list of them."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, str):  # a TOML string is a JSON string, except that DEL has to be escaped
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(int(value)) if isinstance(value, int) else repr(float(value))


# ---------------------------------------------------------------- reading
def line_numbers(text: str) -> dict[tuple[str, ...], int]:
    """(table, ..., key) -> its line number, from 1; `(table, ...)` -> the line of the table's header."""
    numbers: dict[tuple[str, ...], int] = {}
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.split("\n"), 1):  # as TOML counts lines; splitlines() would also split at U+2028
        path = _path_of(line)
        if path is None:
            continue
        if line.lstrip().startswith("["):
            table = path
            numbers.setdefault(table, number)
        else:
            numbers.setdefault((*table, *path), number)
    return numbers


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
    """The positions of all tables and keys of a text."""
    return {(): name, **{path: f"{name} line {number}" for path, number in line_numbers(text).items()}}


def _choices(table: Mapping[str, Any], kind: str, places: Places) -> dict[str, Choice]:
    """Unit -> choice, of all tables `[kind."unit"]`."""

    def where(unit: str) -> Where:
        return lambda key: place(places, kind, unit, key)

    units = table.get(kind, {})
    check_keys(units, units if isinstance(units, Mapping) else (), at(place(places, kind)))
    return {unit: build(Choice, fields, where(unit)) for unit, fields in units.items()}


def _reasons(text: str, asked: Mapping[str, Choice]) -> dict[str, str]:
    """Unit -> the reason in the comment under its header, if the comment names the choice that the unit has now."""
    rows, reasons = text.split("\n"), {}
    for path, number in line_numbers(text).items():
        if len(path) != 2 or path[0] != "unit" or path[1] not in asked or number >= len(rows):
            continue
        beginning = _comment_beginning(asked[path[1]])
        if rows[number].startswith(beginning):
            reasons[path[1]] = rows[number].removeprefix(beginning).strip()
    return reasons


def _syntax_message(name: str, message: str) -> str:
    """tomllib's message with the position in front, in place of `(at line 41, column 7)` at its end."""
    place = re.search(r"\s*\(at line (\d+), column \d+\)", message)
    if place is None:
        return f"{name}: {message.replace(' (at end of document)', '')} at the end: the file is truncated."
    return f"{name} line {place.group(1)}: {message[: place.start()]}."
