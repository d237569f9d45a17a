"""Read recipes, priors and targets from TOML files, whose keys are the fields of the classes; errors name the key."""

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
from dyncompress.recipe.parsing import at, build, check_keys, value_text
from dyncompress.recipe.recipe import CertificateSpec, LayerRule, Recipe, allocators
from dyncompress.recipe.text_files import is_file, read_text, refuse_not_finite, toml
from dyncompress.types import FLOAT_BITS, Distillation, Plan, Profile, Target

if TYPE_CHECKING:
    from dyncompress.allocation.prior import Prior

DEFAULT_RECIPE, DEFAULT_TARGET = "edge-int8", "onnxruntime-x86-vnni"
INTEGER_OPS = ("Conv", "Gemm", "MatMul", "Add")  # operators whose integer kernels the fusion audit can recognise
ELEMENT_TYPES = (  # of tensors in ONNX files, as targets name them
    *("float64", "float32", "float16", "bfloat16", "float8e4m3fn", "float8e5m2", "float4e2m1"),
    *("int64", "int32", "int16", "int8", "int4", "int2", "uint64", "uint32", "uint16", "uint8", "uint4", "uint2"),
    *("bool", "string"),
)
BASES = {"error": "theory", "fisher": "fisher"}  # quantity that a prior multiplies -> the sensitivity that uses the prior


def load_recipe(recipe: str | Path | Recipe, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Load a recipe that comes with the library, or one from a TOML file.

    Args:
        recipe: a name that `dyncompress recipes list` shows, the path of a TOML file, or a `Recipe`, which is returned unchanged.
        overrides: dotted key -> value, as in the file, e.g. `{"budget.bytes": 0.2, "measure.hill.fraction": 0.1}`. A text that is
            valid TOML is read as TOML.

    Raises:
        InvalidRequest: there is no such recipe, the TOML is broken, a key or name is unknown, or a value is out of range.

    Example:
        >>> recipe = load_recipe("edge-int8", {"budget.bytes": 0.2})
        >>> recipe.budget
        Budget(bytes=0.2)
        >>> load_recipe("edge-int9")
        Traceback (most recent call last):
        dyncompress.errors.InvalidRequest: recipe 'edge-int9': there is no such recipe; did you mean 'edge-int8'?
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
    """Load a target (hardware profile) that comes with the library, or one from a TOML file.

    Args:
        target: a name that `dyncompress targets list` shows, the path of a TOML file, or a `Target`, which is returned unchanged.

    Raises:
        InvalidRequest: there is no such target, the TOML is broken, a key is unknown, or a value is out of range.

    Example:
        >>> target = load_target("onnxruntime-x86-vnni")
        >>> target.activation_dtype, target.weight_granularity
        ('uint8', 'channel')
    """
    if isinstance(target, Target):
        return target
    table, where = _table(target, target_files(), "target")
    refuse_not_finite(table, where)
    profile = build(Target, table, at(where))
    wrong = [bits for bits in profile.weight_bits if bits not in BITS]
    if wrong or not profile.weight_bits:
        raise InvalidRequest(f"{where}: weight_bits holds {wrong or 'nothing'}; widths from 2 to 8 are stored.")
    for name, allowed in (
        ("activation_dtype", ("uint8", "int8", "float32")),
        ("weight_granularity", ("channel", "tensor")),
        ("verified", ("runtime", "schema")),
    ):
        check_one_of(getattr(profile, name), allowed, f"{where}: {name}")
    for op in profile.integer_ops:
        check_one_of(op, INTEGER_OPS, f"{where}: integer_ops")
    for name in ("activation_types", "element_types"):
        for element in getattr(profile, name):
            check_one_of(element, ELEMENT_TYPES, f"{where}: {name}")
    if profile.activation_types and profile.activation_dtype not in profile.activation_types:
        raise InvalidRequest(f"{where}: activation_types lacks activation_dtype '{profile.activation_dtype}'; add it.")
    if profile.channel_multiple < 1 or profile.max_model_bytes < 0 or profile.largest_rank < 0:
        raise InvalidRequest(f"{where}: channel_multiple is at least 1, max_model_bytes and largest_rank at least 0.")
    return profile


def recipe_for(
    recipe: str | Path | Recipe | None, made: Plan | Profile | None, overrides: Mapping[str, Any] | None = None
) -> Recipe:
    """The recipe that is given, else the one that a plan or profile was made with, else `edge-int8`.

    Args:
        recipe: as in `load_recipe`, or None.
        made: a plan or profile, or None.
        overrides: as in `load_recipe`.

    Raises:
        InvalidRequest: as in `load_recipe`; or the plan or profile was made with a recipe of the user's own, whose file isn't
            known.
    """
    if recipe is None and made is not None and made.recipe not in recipe_files():
        raise InvalidRequest(
            f"the {_kind(made)} was made by recipe '{made.recipe}', which doesn't come with the library; give its file, "
            "--recipe FILE (in Python recipe=)."
        )
    return load_recipe(recipe if recipe is not None else DEFAULT_RECIPE if made is None else made.recipe, overrides)


def target_for(target: str | Path | Target | None, made: Plan | Profile | None) -> Target:
    """The target that is given, else the one that a plan or profile was made for, else `onnxruntime-x86-vnni`.

    Args:
        target: as in `load_target`, or None.
        made: a plan or profile, or None.

    Raises:
        InvalidRequest: as in `load_target`; or the plan or profile was made for a target of the user's own, whose file isn't
            known.
    """
    if target is None and made is not None and made.target not in target_files():
        raise InvalidRequest(
            f"the {_kind(made)} was made for target '{made.target}', which doesn't come with the library; give its file, "
            "--target FILE (in Python target=)."
        )
    return load_target(target if target is not None else DEFAULT_TARGET if made is None else made.target)


def refuse_mismatch(recipe: Recipe, target: Target, made: Plan | Profile | None) -> None:
    """Refuse a plan or profile that was made with another recipe, or for another target, than the one that is given.

    Raises:
        InvalidRequest: names both, and says what to change.
    """
    if made is None:
        return
    for what, given, own in (("recipe", recipe.name, made.recipe), ("target", target.name, made.target)):
        if given != own:
            change = f'write {what} = "{given}" in its file' if isinstance(made, Plan) else f"measure with this {what}"
            both = f"{what} '{own}', and {what} '{given}' was given"
            raise InvalidRequest(f"the {_kind(made)} was made for {both}; leave the {what} out, or {change}.")


def allocated_by_another(recipe: Recipe, profile: Profile) -> tuple[str, ...]:
    """A note for a plan whose recipe isn't the one that its profile was measured with; empty if it is.

    The recipe determines the budget and the allocator; the choices are those of the profile.
    """
    if recipe.name == profile.recipe:
        return ()
    return (
        f"recipe '{recipe.name}' gave the budget and the allocator alone: the choices are those of recipe '{profile.recipe}', "
        "which the profile was measured with and which the plan is applied with.",
    )


def _kind(made: Plan | Profile) -> str:
    """`plan` or `profile`, for messages."""
    return "plan" if isinstance(made, Plan) else "profile"


def _table(source: str | Path, shipped: Mapping[str, Path], what: str) -> tuple[dict[str, Any], str]:
    """The table of a TOML file, and the file's name for messages."""
    path = Path(source)
    if str(source) in shipped:
        path = shipped[str(source)]
    elif path.suffix != ".toml" and not is_file(path, f"{what} '{source}'"):
        raise InvalidRequest(f"{what} '{source}': there is no such {what}{nearest(str(source), shipped)}")
    return toml(read_text(path, f"{what} '{source}'"), str(path)), path.name


def _override(table: dict[str, Any], dotted: str, value: Any) -> None:
    """Set the value of a dotted key; in a list of tables, the word selects the table with this `name` or `match`."""
    *parents, last = dotted.split(".")
    node: Any = table
    for word in parents:
        if isinstance(node, list):
            tables = [entry for entry in node if isinstance(entry, dict)]
            selected = next((t for t in tables if word in (t.get("name"), t.get("match"))), None)
            if selected is None:
                known = [str(t.get("name", "")) for t in tables]
                raise InvalidRequest(f"--set {dotted}: there is no '{word}'{nearest(word, known)}")
            node = selected
        else:
            node = node.setdefault(word, {})
        if not isinstance(node, dict | list):
            raise InvalidRequest(f"--set {dotted}: '{word}' is {value_text(node)}, not a table.")
    if isinstance(node, list):
        raise InvalidRequest(f"--set {dotted}: '{'.'.join(parents)}' is a list; name one entry of it first.")
    node[last] = _as_toml(value) if isinstance(value, str) else value


def _as_toml(text: str) -> Any:
    """The value of a TOML text, or the text itself if it isn't TOML."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):  # tomllib's error and that of a number of thousands of digits are ValueErrors
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
    """The recipe of a TOML table."""
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
    coefficients = {kind: weights for kind in KINDS if (weights := getattr(theory, kind))}
    priors = _priors(theory.prior) if theory.prior else {}
    head = {key: table[key] for key in HEAD if key in table}
    sources = head.get("sensitivity", Recipe.sensitivity)
    used = [prior for bases in priors.values() for base, prior in bases.items() if BASES[base] in sources]
    by_priors = dict.fromkeys(name for prior in used for name in prior.measures)
    path, certificate = sections["path"], sections["certificate"]
    if path.bytes and path.macs:
        raise InvalidRequest("path: give bytes or macs, not both.")
    check_one_of(certificate.risk.partition(":")[0], RISKS, "certificate.risk")
    check_one_of(certificate.method, ("", *BOUNDS), "certificate.method")
    allocator = _named(table.get("allocator", {"name": "knapsack"}), allocators(), "allocator")[1]
    return dataclasses.replace(
        build(Recipe, head, at(where)),
        budget=parse_budget(table.get("budget", {})),
        measures=with_required_measures(dict(listed), allocator, [name for name in by_priors if name not in SHAPES]),
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
        certificate=certificate,
        path=path.macs or path.bytes,
        path_row="macs" if path.macs else "bytes",
        layers=tuple(build(LayerRule, entry, at(f"layer '{_match(entry)}'")) for entry in _tables(table, "layer")),
    )


def _priors(source: str) -> dict[str, dict[str, Prior]]:
    """Load a prior that comes with the library, or one from a TOML file: kind -> base -> prior."""
    from dyncompress.allocation.prior_table import prior_from_table

    table, where = _table(source, prior_files(), "prior")
    refuse_not_finite(table, where)
    check_schema(table.pop("schema", SCHEMA), where)
    check_keys(table, KINDS, at(where))
    priors = {}
    for kind, bases in table.items():
        check_keys(bases, BASES, at(f"{where}: {kind}"))
        priors[kind] = {base: prior_from_table(entry, f"{where}: {kind}.{base}") for base, entry in bases.items()}
    return priors


def _pruners() -> Mapping[str, type]:
    from dyncompress.pruning import PRUNERS  # imported when a recipe names a pruner

    return PRUNERS


def _quantizers() -> Mapping[str, type]:
    from dyncompress.quantization import QUANTIZERS

    return QUANTIZERS


def _match(entry: Any) -> str:
    """The pattern of a `[[layer]]` table, for messages."""
    return str(entry.get("match", "")) if isinstance(entry, Mapping) else ""


def _tables(table: Mapping[str, Any], name: str) -> list[Any]:
    """The list of tables `[[name]]`; empty if there is none."""
    tables = table.get(name, [])
    if not isinstance(tables, list):
        raise InvalidRequest(f"{name}: it is a list of tables; write [[{name}]] with two brackets.")
    return tables


def _named(entry: Any, index: Mapping[str, type], where: str) -> tuple[str, Any]:
    """(name, object) of a table: its `name` is a key of the index, and its other keys are the fields of that class."""
    check_keys(entry, entry if isinstance(entry, Mapping) else (), at(where))
    name = entry.get("name")
    if not isinstance(name, str):
        raise InvalidRequest(f"{where}: key 'name' is missing{nearest('', index)}")
    if name not in index:
        raise InvalidRequest(f"{where}: unknown name '{name}'{nearest(name, index)}")
    rest = {key: value for key, value in entry.items() if key != "name"}
    return name, build(index[name], rest, at(f"{where}.{name}"))


def _with_object(entry: Any, section: type, load_index: Callable[[], Mapping[str, type]], where: str) -> tuple[Any, Any]:
    """(section, object) of a table that holds the section's own keys and the fields of the class that its `name` selects."""
    if entry is None:
        return section(), None
    check_keys(entry, entry if isinstance(entry, Mapping) else (), at(where))
    own, index = {f.name for f in dataclasses.fields(section)}, load_index()
    name = entry.get("name")
    if isinstance(name, str) and name in index:
        check_keys(entry, {"name", *own, *(f.name for f in dataclasses.fields(index[name]))}, at(f"{where}.{name}"))
    section_keys = {key: value for key, value in entry.items() if key in own}
    rest = {key: value for key, value in entry.items() if key not in own}
    return build(section, section_keys, at(where)), _named(rest, index, where)[1]
