"""The recipe of a TOML table, whose keys are the fields of the classes; errors name the key."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dyncompress.allocation.distortion import KINDS, SHAPES
from dyncompress.errors import InvalidRequest, nearest
from dyncompress.recipe.bundled_files import load_table, prior_files
from dyncompress.recipe.checks import SCHEMA, check_one_of, check_schema, parse_budget, with_required_measures
from dyncompress.recipe.parsing import at, build, check_keys
from dyncompress.recipe.recipe import CertificateSpec, LayerRule, Recipe, allocators
from dyncompress.recipe.text_files import refuse_not_finite
from dyncompress.types import FLOAT_BITS, Distillation

if TYPE_CHECKING:
    from dyncompress.allocation.prior import Prior

BASES = {"error": "theory", "fisher": "fisher"}  # quantity that a prior multiplies -> the sensitivity that uses the prior


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


def recipe_of_table(table: Mapping[str, Any], where: str) -> Recipe:
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

    table, where = load_table(source, prior_files(), "prior")
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
