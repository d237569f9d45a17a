"""Tables of what recipes can name: recipes, targets, measures, allocators, rules, pruners, quantizers, bounds, risks."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from dyncompress import load_recipe, load_target
from dyncompress.allocation import ALLOCATORS, RULES
from dyncompress.certificates import BOUNDS, RISKS
from dyncompress.measures import MEASURES
from dyncompress.pruning import PRUNERS
from dyncompress.quantization import QUANTIZERS
from dyncompress.recipe.bundled_files import recipe_files, target_files

INDEXES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "Measures": ("`[[measure]] name = ...`: an indicator with its standard error, one number for each layer.", MEASURES),
    "Allocators": ("`[allocator] name = ...`: chooses one option for every unit within the budget.", ALLOCATORS),
    "Rules": ("`[allocator] name = ...`: published rules, to compare an allocator with.", RULES),
    "Pruners": ("`[prune] name = ...`: zeroes weights of one layer.", PRUNERS),
    "Quantizers": ("`[quantize] name = ...`: rounds the weights of one layer to integers.", QUANTIZERS),
    "Bounds": ("Finite-sample bounds. A certificate chooses among them by the form of the held-out data.", BOUNDS),
    "Risks": (
        '`[certificate] risk = "name:field=value,field=value"`: the loss of one example, whose increase is certified.',
        RISKS,
    ),
}


def pages() -> Mapping[str, str]:
    """The page of plug-ins, and the page of recipes and targets in short."""
    head = "Written from the indexes of the installed version. Fields are keys of the recipe file."
    lines = ["# What a recipe can name", "", head]
    for title, (text, index) in INDEXES.items():
        lines += ["", f"## {title}", "", text, "", *table(index)]
    lines.append("")
    return {"plugins.md": "\n".join(lines), "recipes_in_short.md": recipes(), "targets_in_short.md": targets()}


def table(index: Mapping[str, Any]) -> Iterable[str]:
    """Name, first line of the docstring, fields with their defaults."""
    yield from ["| name | what it does | fields |", "|---|---|---|"]
    for name, kind in index.items():
        yield f"| `{name}` | {first_sentence(kind)} | {', '.join(fields(kind)) or '–'} |"


def first_sentence(kind: Any) -> str:
    """The first paragraph of a docstring up to its first full stop, safe inside a table."""
    text = " ".join((kind.__doc__ or "").strip().split("\n\n")[0].split())
    end = text.find(". ")
    return text[: end + 1 if end > 0 else None].replace("|", r"\|")


def fields(kind: Any) -> Iterable[str]:
    """`name = default` of every field that a recipe can set."""
    if not dataclasses.is_dataclass(kind):
        return
    for field in dataclasses.fields(kind):
        default = field.default
        if isinstance(default, bool | int | float | str | tuple):
            shown = f"{default}".lower() if isinstance(default, bool) else f"{default!r}"
            yield f"`{field.name} = {shown}`".replace("|", r"\|")
        elif default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            yield f"`{field.name}`"


def recipes() -> str:
    """Name and summary of every shipped recipe."""
    lines = ["| recipe | what it does |", "|---|---|"]
    return "\n".join([*lines, *(f"| `{name}` | {load_recipe(name).summary} |" for name in recipe_files())]) + "\n"


def targets() -> str:
    """Name, check, activations and widths of every shipped target."""
    lines = ["| target | for | checked | activations | widths in the file |", "|---|---|---|---|---|"]
    for name in target_files():
        target = load_target(name)
        bits = ", ".join(map(str, target.weight_bits))
        checked = {"runtime": "run on such a processor", "schema": "form only"}[target.verified]
        lines.append(f"| `{name}` | {target.summary} | {checked} | {target.activation_dtype} | {bits} |")
    return "\n".join(lines) + "\n"
