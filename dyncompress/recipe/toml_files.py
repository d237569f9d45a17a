"""Recipes, priors and targets: TOML files -> values, keys 1:1 to constructor fields, every mistake with its place."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dyncompress.allocation.distortion import KINDS, SHAPES
from dyncompress.errors import InvalidRequest, nearest
from dyncompress.recipe.bundled_files import prior_files, recipe_files, target_files
from dyncompress.recipe.checks import BITS, SCHEMA, check_one_of, check_schema, parse_budget, with_required_measures
from dyncompress.recipe.parsing import at, build, check_keys, shown
from dyncompress.recipe.recipe import CertificateSpec, LayerRule, Recipe, allocators
from dyncompress.recipe.text_files import is_file, read_text, refuse_not_finite, toml
from dyncompress.types import FLOAT_BITS, Distillation, Plan, Profile, Target

if TYPE_CHECKING:
    from dyncompress.allocation.prior import Prior

DEFAULT_RECIPE, DEFAULT_TARGET = "edge-int8", "onnxruntime-x86-vnni"
INTEGER_OPS = ("Conv", "Gemm", "MatMul", "Add")  # that the fusion audit knows
BASES = {"error": "theory", "fisher": "fisher"}  # what a prior multiplies, and the source of harms that reads it


def load_recipe(recipe: str | Path | Recipe, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """A shipped recipe by name, or the one in a TOML file; a `Recipe` is returned as it is.

    Args:
        recipe: name, path or value.
        overrides: dotted key -> value as in the file, e.g. `{"budget.bytes": 0.2, "measure.hill.fraction": 0.1}`; texts are
            read as TOML where they can be.

    Raises:
        InvalidRequest: no such recipe, broken TOML, an unknown key or name, or a value out of range.
    """
    if isinstance(recipe, Recipe):
        if overrides:
            raise InvalidRequest("overrides change a recipe's file; change a Recipe value with dataclasses.replace.")
        return recipe
    table, where = _table(recipe, recipe_files(), "recipe")
    for key, value in (overrides or {}).items():
        _override(table, key, value)
    refuse_not_finite(table, where)
    return _recipe(table, where)


def load_target(target: str | Path | Target) -> Target:
    """A shipped hardware profile by name, or the one in a TOML file; a `Target` is returned as it is.

    Raises:
        InvalidRequest: as `load_recipe`.
    """
    if isinstance(target, Target):
        return target
    table, where = _table(target, target_files(), "target")
    refuse_not_finite(table, where)
    found = build(Target, table, at(where))
    wrong = [bits for bits in found.weight_bits if bits not in BITS]
    if wrong or not found.weight_bits:
        raise InvalidRequest(f"{where}: weight_bits holds {wrong or 'nothing'}; widths from 2 to 8 are stored.")
    for name, allowed in (
        ("activation_dtype", ("uint8", "int8", "float32")),
        ("weight_granularity", ("channel", "tensor")),
        ("verified", ("runtime", "schema")),
    ):
        check_one_of(getattr(found, name), allowed, f"{where}: {name}")
    for op in found.integer_ops:
        check_one_of(op, INTEGER_OPS, f"{where}: integer_ops")
    if found.channel_multiple < 1 or found.max_model_bytes < 0:
        raise InvalidRequest(f"{where}: channel_multiple is at least 1 and max_model_bytes at least 0.")
    return found


def recipe_for(
    recipe: str | Path | Recipe | None, made: Plan | Profile | None, overrides: Mapping[str, Any] | None = None
) -> Recipe:
    """The recipe that is given, else the one that a plan or profile was made by, else `edge-int8`.

    Raises:
        InvalidRequest: as `load_recipe`; or a recipe of the user's own is to be found by its name.
    """
    if recipe is None and made is not None and made.recipe not in recipe_files():
        raise InvalidRequest(
            f"the {_kind(made)} was made by recipe '{made.recipe}', which doesn't come with the library; give its file, "
            "--recipe FILE (in Python recipe=)."
        )
    return load_recipe(recipe if recipe is not None else DEFAULT_RECIPE if made is None else made.recipe, overrides)


def target_for(target: str | Path | Target | None, made: Plan | Profile | None) -> Target:
    """The target that is given, else the one that a plan or profile was made for, else `onnxruntime-x86-vnni`.

    Raises:
        InvalidRequest: as `load_target`; or a target of the user's own is to be found by its name.
    """
    if target is None and made is not None and made.target not in target_files():
        raise InvalidRequest(
            f"the {_kind(made)} was made for target '{made.target}', which doesn't come with the library; give its file, "
            "--target FILE (in Python target=)."
        )
    return load_target(target if target is not None else DEFAULT_TARGET if made is None else made.target)


def refuse_others(recipe: Recipe, target: Target, made: Plan | Profile | None) -> None:
    """Refuse to carry out by one recipe, or for one target, what was chosen for another.

    Raises:
        InvalidRequest: tells both names, and what to do.
    """
    if made is None:
        return
    for what, given, own in (("recipe", recipe.name, made.recipe), ("target", target.name, made.target)):
        if given != own:
            change = f'write {what} = "{given}" in its file' if isinstance(made, Plan) else f"measure with this {what}"
            both = f"{what} '{own}', and {what} '{given}' was given"
            raise InvalidRequest(f"the {_kind(made)} was made for {both}; leave the {what} out, or {change}.")


def allocated_by_another(recipe: Recipe, profile: Profile) -> tuple[str, ...]:
    """A note for a plan whose budget and allocator are another recipe's than its profile's: the choices aren't."""
    if recipe.name == profile.recipe:
        return ()
    return (
        f"recipe '{recipe.name}' gave the budget and the allocator alone: the choices are those of recipe '{profile.recipe}', "
        "which the profile was measured by and which carries the plan out.",
    )


def _kind(made: Plan | Profile) -> str:
    return "plan" if isinstance(made, Plan) else "profile"


def _table(source: str | Path, shipped: Mapping[str, Path], what: str) -> tuple[dict[str, Any], str]:
    """The file's table, and its name for messages."""
    path = Path(source)
    if str(source) in shipped:
        path = shipped[str(source)]
    elif path.suffix != ".toml" and not is_file(path, f"{what} '{source}'"):
        raise InvalidRequest(f"{what} '{source}': there is no such {what}{nearest(str(source), shipped)}")
    return toml(read_text(path, f"{what} '{source}'"), str(path)), path.name


def _override(table: dict[str, Any], dotted: str, value: Any) -> None:
    """Set one key; inside a list of tables the word is a `name` or `match`."""
    *parents, last = dotted.split(".")
    node: Any = table
    for word in parents:
        if isinstance(node, list):
            tables = [entry for entry in node if isinstance(entry, dict)]
            inner = next((t for t in tables if word in (t.get("name"), t.get("match"))), None)
            if inner is None:
                known = [str(t.get("name", "")) for t in tables]
                raise InvalidRequest(f"--set {dotted}: there is no '{word}'{nearest(word, known)}")
            node = inner
        else:
            node = node.setdefault(word, {})
        if not isinstance(node, dict | list):
            raise InvalidRequest(f"--set {dotted}: '{word}' is {shown(node)}, not a table.")
    if isinstance(node, list):
        raise InvalidRequest(f"--set {dotted}: '{'.'.join(parents)}' is a list; name one entry of it first.")
    node[last] = _as_toml(value) if isinstance(value, str) else value


def _as_toml(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):  # TOML's own error is a ValueError, as is a number of thousands of digits
        return text


@dataclass(frozen=True)
class _Prune:
    sparsities: tuple[float, ...] = ()
    pattern: str = ""


@dataclass(frozen=True)
class _Quantize:
    weight_bits: tuple[int, ...] = (8,)
    steps: tuple[float, ...] = ()
    granularity: str = "channel"
    activation_bits: int = FLOAT_BITS
    activation_share: float = 0.98


@dataclass(frozen=True)
class _Channels:
    keeps: tuple[float, ...] = ()
    blocks: bool = False
    latency_batch: int = 0
    ranks: tuple[float, ...] = ()


@dataclass(frozen=True)
class _Theory:
    pruning: Mapping[str, float] = field(default_factory=dict)
    quantization: Mapping[str, float] = field(default_factory=dict)
    prior: str = ""
    probes: float = 0.0


@dataclass(frozen=True)
class _Targets:
    sequential: bool = False
    mirrored: bool = False


@dataclass(frozen=True)
class _Match:
    moments: bool = True


@dataclass(frozen=True)
class _Calibration:
    limit: int = 1024
    observed: int = 0


@dataclass(frozen=True)
class _Path:
    bytes: tuple[float, ...] = ()
    macs: tuple[float, ...] = ()


HEAD = ("schema", "name", "summary", "sensitivity", "seed")
SECTIONS = {
    "channels": _Channels,
    "targets": _Targets,
    "match": _Match,
    "distill": Distillation,
    "calibration": _Calibration,
    "path": _Path,
    "certificate": CertificateSpec,
}
TABLES = (*HEAD, *SECTIONS, "budget", "measure", "theory", "allocator", "prune", "quantize", "layer")


def _recipe(table: Mapping[str, Any], where: str) -> Recipe:
    """The values of a recipe file."""
    from dyncompress.certificates import BOUNDS, RISKS
    from dyncompress.measures import MEASURES

    check_schema(table.get("schema", SCHEMA), where)
    check_keys(table, TABLES, at(where))
    sections = {name: build(cls, table.get(name, {}), at(name)) for name, cls in SECTIONS.items()}
    pruning, pruner = _with_object(table.get("prune"), _Prune, _pruners, "prune")
    rounding, quantizer = _with_object(table.get("quantize"), _Quantize, _quantizers, "quantize")
    listed = [_named(entry, MEASURES, "measure") for entry in _tables(table, "measure")]
    names = [name for name, _ in listed]
    if len(set(names)) < len(names):
        raise InvalidRequest(f"measure: '{max(names, key=names.count)}' is listed twice; list every measure once.")
    theory = build(_Theory, table.get("theory", {}), at("theory"))
    coefficients = {kind: found for kind in KINDS if (found := getattr(theory, kind))}
    priors = _priors(theory.prior) if theory.prior else {}
    head = {key: table[key] for key in HEAD if key in table}
    sources = head.get("sensitivity", Recipe.sensitivity)
    used = [prior for bases in priors.values() for base, prior in bases.items() if BASES[base] in sources]
    read = dict.fromkeys(name for prior in used for name in prior.measures)
    path, promise = sections["path"], sections["certificate"]
    if path.bytes and path.macs:
        raise InvalidRequest("path: give bytes or macs, not both.")
    check_one_of(promise.risk, RISKS, "certificate.risk")
    check_one_of(promise.method, ("", *BOUNDS), "certificate.method")
    allocator = _named(table.get("allocator", {"name": "knapsack"}), allocators(), "allocator")[1]
    return dataclasses.replace(
        build(Recipe, head, at(where)),
        budget=parse_budget(table.get("budget", {})),
        measures=with_required_measures(dict(listed), allocator, [name for name in read if name not in SHAPES]),
        coefficients=coefficients,
        priors=priors,
        probes=theory.probes,
        allocator=allocator,
        pruner=pruner,
        quantizer=quantizer,
        **dataclasses.asdict(pruning),
        **dataclasses.asdict(rounding if quantizer else dataclasses.replace(rounding, weight_bits=())),
        **dataclasses.asdict(sections["channels"]),
        **dataclasses.asdict(sections["targets"]),
        match=sections["match"].moments,
        distill=sections["distill"],
        calibration=sections["calibration"].limit,
        observed=sections["calibration"].observed,
        certificate=promise,
        path=path.macs or path.bytes,
        path_row="macs" if path.macs else "bytes",
        layers=tuple(build(LayerRule, entry, at(f"layer '{_match(entry)}'")) for entry in _tables(table, "layer")),
    )


def _priors(source: str) -> dict[str, dict[str, Prior]]:
    """A shipped prior by name, or the one in a TOML file: kind -> base -> prior."""
    from dyncompress.allocation.prior_table import prior_from_table

    table, where = _table(source, prior_files(), "prior")
    refuse_not_finite(table, where)
    check_schema(table.pop("schema", SCHEMA), where)
    check_keys(table, KINDS, at(where))
    found = {}
    for kind, bases in table.items():
        check_keys(bases, BASES, at(f"{where}: {kind}"))
        found[kind] = {base: prior_from_table(entry, f"{where}: {kind}.{base}") for base, entry in bases.items()}
    return found


def _pruners() -> Mapping[str, type]:
    from dyncompress.pruning import PRUNERS  # torch is loaded only where weights are pruned or rounded

    return PRUNERS


def _quantizers() -> Mapping[str, type]:
    from dyncompress.quantization import QUANTIZERS

    return QUANTIZERS


def _match(entry: Any) -> str:
    return str(entry.get("match", "")) if isinstance(entry, Mapping) else ""


def _tables(table: Mapping[str, Any], name: str) -> list[Any]:
    found = table.get(name, [])
    if not isinstance(found, list):
        raise InvalidRequest(f"{name}: it is a list of tables; write [[{name}]] with two brackets.")
    return found


def _named(entry: Any, index: Mapping[str, type], where: str) -> tuple[str, Any]:
    """(name, object) of a table with `name` and the fields of the class that the index gives it."""
    check_keys(entry, entry if isinstance(entry, Mapping) else (), at(where))
    name = entry.get("name")
    if not isinstance(name, str):
        raise InvalidRequest(f"{where}: key 'name' is missing{nearest('', index)}")
    if name not in index:
        raise InvalidRequest(f"{where}: unknown name '{name}'{nearest(name, index)}")
    rest = {key: value for key, value in entry.items() if key != "name"}
    return name, build(index[name], rest, at(f"{where}.{name}"))


def _with_object(entry: Any, section: type, rooms: Callable[[], Mapping[str, type]], where: str) -> tuple[Any, Any]:
    """A section whose table holds both its own keys and those of the object that its `name` chooses."""
    if entry is None:
        return section(), None
    check_keys(entry, entry if isinstance(entry, Mapping) else (), at(where))
    own, index = {f.name for f in dataclasses.fields(section)}, rooms()
    name = entry.get("name")
    if isinstance(name, str) and name in index:
        check_keys(entry, {"name", *own, *(f.name for f in dataclasses.fields(index[name]))}, at(f"{where}.{name}"))
    mine = {key: value for key, value in entry.items() if key in own}
    rest = {key: value for key, value in entry.items() if key not in own}
    return build(section, mine, at(where)), _named(rest, index, where)[1]
