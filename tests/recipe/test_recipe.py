"""Recipes, targets and plan files: how they are read, and the message for every kind of mistake."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dyncompress.errors import InvalidRequest
from dyncompress.recipe.checks import parse_budget
from dyncompress.recipe.plan_file import Structure, check_plan, line_numbers, plan_from_toml, plan_to_toml, read_plan
from dyncompress.recipe.recipe import LayerRule, Recipe, rules_for
from dyncompress.recipe.toml_files import load_recipe, load_target
from dyncompress.types import Budget, Choice, Layer, Plan, Target

RECIPE = """
schema = 1
name = "mine"
summary = "a test"
sensitivity = ["fisher", "theory"]
seed = 3

[budget]
bytes = 0.25

[[measure]]
name = "hill"
fraction = 0.1

[[measure]]
name = "stable_rank"

[theory.pruning]
hill = 0.5

[allocator]
name = "knapsack"
seconds = 5

[prune]
name = "magnitude"
sparsities = [0, 0.5]

[channels]
keeps = [1.0, 0.5]

[quantize]
name = "gptq"
damping = 0.02
weight_bits = [8, 4]
activation_bits = 8

[match]
moments = false

[calibration]
limit = 64

[certificate]
risk = "agreement"
delta = 0.1

[path]
bytes = [0.3, 0.2]

[[layer]]
match = "head.*"
weight_bits = [8]

[[layer]]
match = "<first>"
leave_alone = true
"""


def written(folder: Path, text: str, name: str = "mine.toml") -> Path:
    path = folder / name
    path.write_bytes(text.encode())
    return path


def message(folder: Path, text: str) -> str:
    with pytest.raises(InvalidRequest) as caught:
        load_recipe(written(folder, text))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_key_of_the_file_is_a_field(tmp_path: Path) -> None:
    recipe = load_recipe(written(tmp_path, RECIPE))
    assert recipe.measures["hill"].fraction == 0.1  # type: ignore[attr-defined]
    assert list(recipe.measures) == ["hill", "stable_rank"]
    assert recipe.coefficients == {"pruning": {"hill": 0.5}}
    assert recipe.allocator.seconds == 5.0  # type: ignore[attr-defined]
    assert recipe.quantizer.damping == 0.02  # type: ignore[union-attr]
    assert (recipe.weight_bits, recipe.sparsities, recipe.keeps) == ((8, 4), (0.0, 0.5), (1.0, 0.5))
    assert (recipe.activation_bits, recipe.match, recipe.calibration, recipe.seed) == (8, False, 64, 3)
    assert (recipe.certificate.risk, recipe.certificate.delta) == ("agreement", 0.1)
    assert recipe.budgets() == (Budget(bytes=0.3), Budget(bytes=0.2))
    assert load_recipe(recipe) is recipe


def test_windows_newlines_and_byte_order_marks_change_nothing(tmp_path: Path) -> None:
    plain = load_recipe(written(tmp_path, RECIPE))
    path = tmp_path / "windows.toml"
    path.write_bytes(b"\xef\xbb\xbf" + RECIPE.replace("\n", "\r\n").encode())
    assert load_recipe(path) == plain


MISTAKES = {
    "key of a measure": ("fraction = 0.1", "fractoin = 0.1", "measure.hill: unknown key 'fractoin'; did you mean 'fraction'?"),
    "name of a measure": ('name = "hill"', 'name = "hil"', "measure: unknown name 'hil'; did you mean 'hill'?"),
    "table": ("[quantize]", "[quantise]", "mine.toml: unknown key 'quantise'; did you mean 'quantize'?"),
    "key of quantize": (
        "weight_bits = [8, 4]\na",
        "weigth_bits = [8]\na",
        "quantize.gptq: unknown key 'weigth_bits'; did you mean",
    ),
    "key of the quantizer": ("damping = 0.02", "dampin = 0.02", "quantize.gptq: unknown key 'dampin'; did you mean 'damping'?"),
    "name of the pruner": ('"magnitude"', '"magnitud"', "prune: unknown name 'magnitud'; did you mean 'magnitude'?"),
    "name of the allocator": ('"knapsack"', '"knapsak"', "allocator: unknown name 'knapsak'; did you mean 'knapsack'?"),
    "sensitivity": ('"fisher", ', '"fischer", ', "unknown sensitivity 'fischer'; did you mean 'fisher'?"),
    "risk": ('"agreement"', '"agrement"', "certificate.risk is 'agrement'; did you mean 'agreement'?"),
    "key of a rule": ("leave_alone", "leave_alon", "layer '<first>': unknown key 'leave_alon'; did you mean 'leave_alone'?"),
    "coefficient": ("hill = 0.5", "hil = 0.5", "theory weighs 'hil', which it doesn't measure; did you mean 'hill'?"),
    "kind of theory": ("[theory.pruning]", "[theory.prunning]", "theory: unknown key 'prunning'; did you mean 'pruning'?"),
    "text for a number": ("bytes = 0.25", 'bytes = "0.25"', "budget: 'bytes' is '0.25'; a number is needed."),
    "truth for a number": ("seed = 3", "seed = true", "mine.toml: 'seed' is true; an integer is needed."),
    "number for a list": ("keeps = [1.0, 0.5]", "keeps = 0.5", "channels: 'keeps' is 0.5; a list is needed."),
    "float for an integer": ("limit = 64", "limit = 6.4", "calibration: 'limit' is 6.4; an integer is needed."),
    "number for a truth": ("moments = false", "moments = 0", "match: 'moments' is 0; true or false is needed."),
    "value for a table": ("[match]\nmoments = false", "[matching]", "unknown key 'matching'; did you mean 'match'?"),
    "one bracket": ("[[layer]]", "[layer]", "mine.toml: it is no valid TOML"),
    "schema": ("schema = 1", "schema = 2", "schema 2 is read by another version"),
    "missing name": ('name = "mine"', "", "mine.toml: key 'name' is missing."),
    "missing match": ('match = "head.*"', "", "layer '': key 'match' is missing."),
    "listed twice": ('name = "stable_rank"', 'name = "hill"', "measure: 'hill' is listed twice"),
    "percent": ("bytes = 0.25", "bytes = 25", "budget.bytes is 25, read as 25 bytes; a share is written below 1"),
    "no budget": ("bytes = 0.25", "bytes = 0", "budget.bytes is 0; a positive number is needed"),
    "infinite": ("bytes = 0.25", "bytes = inf", "budget.bytes is inf; a finite number is needed."),
    "risk budget": ("bytes = 0.25", "risk_increase = 2", "budget.risk_increase is 2; a share in (0, 1) is needed"),
    "bits": ("[8, 4]", "[8, 9]", "weight_bits holds 9; 2 to 8, or 32 for float, are needed."),
    "sparsity": ("[0, 0.5]", "[0, 50]", "sparsities holds 50; shares of zeros in [0, 1) are needed"),
    "keep": ("keeps = [1.0", "keeps = [0.0", "channels.keeps holds 0; shares in (0, 1] are needed."),
    "pattern": ("sparsities = [0, 0.5]", 'sparsities = [0.5]\npattern = "4:2"', "prune.pattern is '4:2'; write n of every m"),
    "pattern's share": (
        "sparsities = [0, 0.5]",
        'sparsities = [0.3]\npattern = "2:4"',
        "pattern 2:4 has 0.5 zeros, sparsities holds 0.3",
    ),
    "granularity": (
        "damping = 0.02",
        'granularity = "row"',
        "granularity is 'row'; 'tensor', 'channel' or 'group:32' is needed.",
    ),
    "activations": ("activation_bits = 8", "activation_bits = 4", "activation_bits is 4; 8 or 32 (float) is needed."),
    "delta": ("delta = 0.1", "delta = 0.0", "certificate.delta is 0; a probability in (0, 1) is needed"),
    "order of the path": ("[0.3, 0.2]", "[0.2, 0.3]", "path.bytes goes from cautious to bold"),
    "two paths": ("bytes = [0.3, 0.2]", "bytes = [0.3]\nmacs = [0.5]", "path: give bytes or macs, not both."),
    "a measure's own check": ("fraction = 0.1", "fraction = 7.0", "fraction"),
    "broken TOML": ("seed = 3", "seed = ", "mine.toml: it is no valid TOML"),
    "no pruner": ('name = "magnitude"\n', "", "prune: key 'name' is missing"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_every_mistake_has_its_message(case: str, tmp_path: Path) -> None:
    right, wrong, sentence = MISTAKES[case]
    assert right in RECIPE
    assert sentence in message(tmp_path, RECIPE.replace(right, wrong))


def test_a_file_cut_anywhere_is_refused_or_still_a_recipe(tmp_path: Path) -> None:
    for cut in range(0, len(RECIPE), 7):
        try:
            load_recipe(written(tmp_path, RECIPE[:cut]))
        except InvalidRequest as error:
            assert "\n" not in str(error)


def test_missing_and_binary_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"recipe 'edge-int9': there is no such recipe; did you mean 'edge-int8'\?"):
        load_recipe("edge-int9")
    with pytest.raises(InvalidRequest, match="no such file"):
        load_recipe(tmp_path / "absent.toml")
    (tmp_path / "binary.toml").write_bytes(bytes(range(256)))
    with pytest.raises(InvalidRequest, match="no text in UTF-8"):
        load_recipe(tmp_path / "binary.toml")


def test_overrides_change_the_file_before_it_is_read(tmp_path: Path) -> None:
    path = written(tmp_path, RECIPE)
    changes = {"budget.bytes": "0.2", "quantize.weight_bits": "[4]", "measure.hill.fraction": 0.2, "name": "other"}
    recipe = load_recipe(path, changes)
    assert recipe.budget.bytes == 0.2 and recipe.weight_bits == (4,) and recipe.name == "other"
    assert recipe.measures["hill"].fraction == 0.2  # type: ignore[attr-defined]
    assert load_recipe(path, {"layer.<first>.leave_alone": "false"}).layers[1] == LayerRule("<first>")
    for key, value, sentence in (
        ("budget.byts", "0.2", "budget: unknown key 'byts'; did you mean 'bytes'?"),
        ("measure.hil.fraction", "0.2", "there is no 'hil'; did you mean 'hill'?"),
        ("name.first", "1", "'name' is 'mine', not a table"),
        ("measure.fraction", "1", "'measure' is a list"),
        ("budget.bytes", "small", "budget: 'bytes' is 'small'; a number is needed."),
    ):
        with pytest.raises(InvalidRequest) as caught:
            load_recipe(path, {key: value})
        assert sentence in str(caught.value)
    with pytest.raises(InvalidRequest, match=r"dataclasses\.replace"):
        load_recipe(recipe, {"name": "x"})


def test_recipes_built_in_python_are_checked_too() -> None:
    with pytest.raises(InvalidRequest, match="no quantizer"):
        Recipe("mine", weight_bits=(4,))
    with pytest.raises(InvalidRequest, match="no pruner"):
        Recipe("mine", sparsities=(0.5,))
    assert Recipe("mine").budgets() == (Budget(),)


def test_budgets() -> None:
    assert parse_budget({"bytes": 20_000, "risk_increase": 0.02}) == Budget(bytes=20_000.0, risk_increase=0.02)
    with pytest.raises(InvalidRequest, match="unknown key 'size'"):
        parse_budget({"size": 3})


def test_the_first_matching_rule_applies_and_every_rule_matches_something() -> None:
    layers = ["stem.conv", "body.0.conv", "body.1.conv", "head.fc"]
    rules = (
        LayerRule("body.0.*", (8,)),
        LayerRule("body.*", (4,)),
        LayerRule("<last>", leave_alone=True),
        LayerRule("<first>", (6,)),
    )
    rule_of = rules_for(Recipe("mine", layers=rules), layers)
    assert {name: rules.index(rule) for name, rule in rule_of.items()} == {
        "body.0.conv": 0, "body.1.conv": 1, "head.fc": 2, "stem.conv": 3,
    }  # fmt: skip
    with pytest.raises(InvalidRequest, match=r"layer pattern 'heads\.\*' matches no layer; (did you mean|known)"):
        rules_for(Recipe("mine", layers=(LayerRule("heads.*"),)), layers)


def test_targets_are_read_as_strictly(tmp_path: Path) -> None:
    good = 'name = "t"\nsummary = "s"\nverified = "schema"\n'
    assert load_target(written(tmp_path, good)) == Target("t", "s", "schema")
    for extra, sentence in (
        ("opest = 21", "mine.toml: unknown key 'opest'; did you mean 'opset'?"),
        ("weight_bits = [1]", "weight_bits holds [1]"),
        ('activation_dtype = "unit8"', "activation_dtype is 'unit8'; did you mean 'uint8'?"),
        ("[session]\nthreads = 1", "'session' 'threads' is 1; a text is needed."),
        ("channel_multiple = 0", "channel_multiple is at least 1"),
    ):
        with pytest.raises(InvalidRequest) as caught:
            load_target(written(tmp_path, good + extra))
        assert sentence in str(caught.value)
    with pytest.raises(InvalidRequest, match="there is no such target"):
        load_target("toaster")


# ---------------------------------------------------------------- plans
LAYERS = (
    Layer("stem.conv", "conv2d", (8, 3, 3, 3), 1000),
    Layer('odd "name"\\é', "linear", (4, 32), 128),
    Layer("embed", "embedding", (10, 4), 0, left_alone="shared"),
)
STRUCTURE = Structure(groups={"channels:g0": 8})
PLAN = Plan(
    asked={
        "stem.conv": Choice(weight_bits=4, sparsity=0.5, activation_bits=8),
        'odd "name"\\é': Choice(weight_bits=8, granularity="group:32"),
        "channels:g0": Choice(keep=6),
    },
    why={"stem.conv": "predicted distortion 0.1 nats (fisher); 2 bits would save 27 bytes", 'odd "name"\\é': "the last layer"},
    reasons={"embed": 'shared "twice"'},
    cost={"bytes": 1234.0, "macs": 999.5, "float_bytes": 5000.0, "float_macs": 1032.0},
    distortion=0.1 + 0.2,
    gap=1e-17,
    recipe="smallest",
    target="onnxruntime-x86-vnni",
    digest="ab12",
    shapes={layer.name: layer.shape for layer in LAYERS},
    share_left_alone={"weights": 0.1, "macs": 0.0},
    realised={
        "channels:g0": Choice(keep=6, indices=(0, 1, 3, 4, 5, 7), method="eliminate + refit"),
        "stem.conv": Choice(weight_bits=4),
    },
)
TEXT = plan_to_toml(PLAN)


def test_a_plan_survives_its_file(tmp_path: Path) -> None:
    assert plan_from_toml(TEXT) == PLAN
    assert plan_from_toml(TEXT.replace("\n", "\r\n")) == PLAN
    path = tmp_path / "plan.toml"
    path.write_bytes(b"\xef\xbb\xbf" + TEXT.encode())
    assert read_plan(path) == PLAN
    assert plan_to_toml(plan_from_toml(TEXT)) == TEXT
    check_plan(PLAN, LAYERS, structure=STRUCTURE)
    nan = dataclasses.replace(PLAN, distortion=math.nan, gap=math.inf)
    again = plan_from_toml(plan_to_toml(nan))
    assert math.isnan(again.distortion) and again.gap == math.inf


@given(st.text(), st.text(), st.floats(), st.sampled_from([2, 3, 8, 32]), st.floats(0, 0.99))
def test_all_names_and_numbers_survive_the_file(name: str, why: str, distortion: float, bits: int, sparsity: float) -> None:
    name, why = (text.encode("utf-16", "surrogatepass").decode("utf-16", "ignore") for text in (name, why))
    choice = Choice(weight_bits=bits, sparsity=sparsity)
    plan = dataclasses.replace(
        PLAN, asked={name: choice}, realised={}, why={}, reasons={name + "2": why}, shapes={name: (3, 2)}, distortion=distortion
    )
    if name.startswith("channels:"):
        return
    again = plan_from_toml(plan_to_toml(plan))
    assert dataclasses.replace(again, distortion=0.0) == dataclasses.replace(plan, distortion=0.0)
    assert again.distortion == distortion or (math.isnan(again.distortion) and math.isnan(distortion))


def line_of(text: str) -> int:
    return next(i for i, line in enumerate(TEXT.splitlines(), 1) if line.startswith(text))


EDITS = {
    "bits": ("weight_bits = 4", "weight_bits = 9", "weight_bits is 9; 2, 3, 4, 5, 6, 7, 8 or 32 (float) are possible."),
    "key": ("weight_bits = 4", "weight_bit = 4", "unknown key 'weight_bit'; did you mean 'weight_bits'?"),
    "type": ("weight_bits = 4", 'weight_bits = "4"', "'weight_bits' is '4'; an integer is needed."),
    "sparsity": ("sparsity = 0.5", "sparsity = 50", "sparsity is 50; a share of zeros in [0, 1) is needed"),
    "syntax": ("sparsity = 0.5", "sparsity = 0,5", "line"),
    "keep": ("keep = 6", "keep = 0", "unit 'channels:g0': keep is 0"),
    "unit": ('[unit."stem.conv"]', '[unit."stem.cnov"]', "the model has no unit 'stem.cnov'; did you mean 'stem.conv'?"),
    "granularity": ('granularity = "group:32"', 'granularity = "rows"', "granularity is 'rows'"),
    "activations": ("activation_bits = 8", "activation_bits = 7", "activation_bits is 7"),
    "table": ("[cost]", "[costs]", "unknown key 'costs'; did you mean 'cost'?"),
    "head": ('recipe = "smallest"', "recipe = 3", "'recipe' is 3; a text is needed."),
}


@pytest.mark.parametrize("case", EDITS)
def test_a_wrong_edit_names_its_line(case: str) -> None:
    right, wrong, sentence = EDITS[case]
    with pytest.raises(InvalidRequest) as caught:
        plan_from_toml(TEXT.replace(right, wrong, 1), "folder/plan.toml")
    assert str(caught.value).startswith(f"plan.toml line {line_of(right)}: "), caught.value
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


def test_a_correct_edit_is_accepted() -> None:
    edited = plan_from_toml(TEXT.replace("weight_bits = 4", "weight_bits = 32  # keep it", 1))
    assert edited.asked["stem.conv"].weight_bits == 32
    bare = TEXT.replace('[unit."channels:g0"]', "[unit.'channels:g0']")
    assert plan_from_toml(bare).asked == PLAN.asked
    assert line_numbers(bare)[("unit", "channels:g0", "keep")] == line_of("keep = 6")


def test_a_truncated_plan_is_refused_in_one_sentence() -> None:
    for cut in [*range(0, len(TEXT) - 2, 5), len(TEXT) - 3]:
        with pytest.raises(InvalidRequest) as caught:
            plan_from_toml(TEXT[:cut])
        assert "\n" not in str(caught.value)
    with pytest.raises(InvalidRequest, match="declares 3 units and holds 2"):
        plan_from_toml(TEXT.replace('[unit."channels:g0"]\nkeep = 6\n', ""))


def test_a_plan_is_checked_against_the_model() -> None:
    def refused(plan: Plan, layers: tuple[Layer, ...] = LAYERS, **how: object) -> str:
        with pytest.raises(InvalidRequest) as caught:
            check_plan(plan, layers, structure=STRUCTURE, **how)  # type: ignore[arg-type]
        return str(caught.value)

    wide = dataclasses.replace(PLAN, asked={"channels:g0": Choice(keep=9)})
    assert "unit 'channels:g0': keep is 9; it has 8 channels." in refused(wide)
    from_file = dataclasses.replace(plan_from_toml(TEXT, "a/plan.toml"), asked=wide.asked)
    assert refused(from_file).startswith(f"plan.toml line {line_of('keep = 6')}: ")
    assert "no unit 'channels:g1'" in refused(dataclasses.replace(PLAN, asked={"channels:g1": Choice(keep=2)}))
    assert "weight_bits is 4; 8 or 32 (float) are possible." in refused(PLAN, weight_bits=(8,))
    other = (dataclasses.replace(LAYERS[0], shape=(8, 1, 3, 3)), *LAYERS[1:])
    assert "layer 'stem.conv' has shape (8, 1, 3, 3), the plan was made for (8, 3, 3, 3)." in refused(PLAN, other)
    assert "the model has no layer 'stem.conv'" in refused(PLAN, LAYERS[1:])
    far = dataclasses.replace(PLAN, asked={"channels:g0": Choice(keep=2, indices=(0, 8))})
    assert "indices reach beyond its 8 channels." in refused(far)
    assert "they have to agree" in refused(dataclasses.replace(PLAN, asked={"channels:g0": Choice(keep=2, indices=(0, 0))}))


def test_plans_that_are_not_files(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="no such file"):
        read_plan(tmp_path / "plan.toml")
    (tmp_path / "plan.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidRequest, match="it is no text"):
        read_plan(tmp_path / "plan.toml")
    with pytest.raises(InvalidRequest, match="'schema' is missing"):
        plan_from_toml("")
