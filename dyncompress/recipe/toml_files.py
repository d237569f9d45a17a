"""Read recipes, priors and targets from TOML files, whose keys are the fields of the classes; errors name the key."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dyncompress.errors import InvalidRequest, nearest
from dyncompress.recipe.bundled_files import load_table, recipe_files, target_files
from dyncompress.recipe.checks import BITS, check_one_of
from dyncompress.recipe.parsing import at, build, value_text
from dyncompress.recipe.recipe import Recipe
from dyncompress.recipe.recipe_table import recipe_of_table
from dyncompress.recipe.text_files import refuse_not_finite
from dyncompress.types import Plan, Profile, Target

FORMS = ("static", "dynamic")  # of integer products: grids of activations from calibration, or from the values of each run
DEFAULT_RECIPE, DEFAULT_TARGET = "edge-int8", "onnxruntime-x86-vnni"
INTEGER_OPS = ("Conv", "Gemm", "MatMul", "LSTM", "Add")  # operators whose integer kernels the fusion audit can recognise
ELEMENT_TYPES = (  # of tensors in ONNX files, as targets name them
    *("float64", "float32", "float16", "bfloat16", "float8e4m3fn", "float8e5m2", "float4e2m1"),
    *("int64", "int32", "int16", "int8", "int4", "int2", "uint64", "uint32", "uint16", "uint8", "uint4", "uint2"),
    *("bool", "string"),
)


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
    table, where = load_table(recipe, recipe_files(), "recipe")
    for key, value in (overrides or {}).items():
        _override(table, key, value)
    refuse_not_finite(table, where)
    return recipe_of_table(table, where)


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
    table, where = load_table(target, target_files(), "target")
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
    if not profile.forms or len(set(profile.forms)) < len(profile.forms):
        raise InvalidRequest(f"{where}: forms holds {list(profile.forms) or 'nothing'}; list static, dynamic or both, once each.")
    for form in profile.forms:
        check_one_of(form, FORMS, f"{where}: forms")
    if "dynamic" in profile.forms and (profile.activation_dtype == "int8" or not profile.folds_constants):
        raise InvalidRequest(
            f"{where}: forms holds 'dynamic', which needs activation_dtype = \"uint8\" and folds_constants = true; leave it out."
        )
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
