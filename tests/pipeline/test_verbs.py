"""The verbs, separately and in one call, on a tiny network: shipped recipes, and other forms of models and data."""

from __future__ import annotations

import copy
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import dyncompress as dc
from dyncompress.deployment import matches_target
from dyncompress.pipeline.profiling.candidates import layer_errors
from dyncompress.recipe.plan_file import plan_to_toml
from dyncompress.recipe.profile_file import load_profile, save_profile
from dyncompress.recipe.recipe import LayerRule
from dyncompress.types import Weight
from tests import tiny
from tests.running import session_of
from tests.tiny import CALIBRATION, CLASSES, HELD_OUT, LAYERS, TARGET, network

# `edge-int8` runs in the README's example, and `demo` in the demo. The graph of the tiny network is a sixth of its float file,
# so the shipped budgets, which suit networks with more weights, are replaced.
RECIPES: dict[str, dict[str, Any]] = {
    "heavy-tail": {"budget.bytes": 0.40},
    "trajectory": {"budget.bytes": 0.22},
    "edge-int4": {},
    "smallest": {"budget.bytes": 0.35},
    "narrow": {},
    "certified": {"budget.risk_increase": 0.05, "path.bytes": [0.45, 0.40, 0.31]},
}


def run(content: bytes, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    """The outputs of onnxruntime."""
    session = session_of(content)
    return [np.asarray(out) for out in session.run(None, inputs)]


def state(module: nn.Module) -> dict[str, Any]:
    """All state of a model whose change a caller could notice."""
    tensors = {name: (value, value.clone()) for name, value in module.state_dict(keep_vars=True).items()}
    parts = {name: (type(part), part.training, dict(part._forward_hooks)) for name, part in module.named_modules()}
    flags = {name: (p.requires_grad, p.grad) for name, p in module.named_parameters()}
    return {"tensors": tensors, "parts": parts, "flags": flags}


def assert_unchanged(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert before["parts"] == after["parts"] and before["flags"] == after["flags"]
    assert before["tensors"].keys() == after["tensors"].keys()
    for name, (value, content) in before["tensors"].items():
        assert after["tensors"][name][0] is value and torch.equal(after["tensors"][name][1], content)


# ---------------------------------------------------------------- one verb at a time
def test_measure_tabulates_every_layer() -> None:
    profile = tiny.profile()
    assert tuple(profile.table) == LAYERS == tuple(layer.name for layer in profile.layers)
    assert set(profile.source.values()) == {"fisher"} and not profile.reasons
    assert profile.notes == tuple(filter(None, [matches_target(dc.load_target(TARGET))]))
    for name, options in profile.table.items():
        # The head has 64 weights, for which 6 bits save nothing.
        assert [o.choice.weight_bits for o in options] == ([8, 4] if name == "head" else [8, 6, 5, 4])
        assert [o.bytes for o in options] == sorted((o.bytes for o in options), reverse=True)
        distortions = [o.distortion for o in options]
        assert distortions == sorted(distortions) and 0 < distortions[0] < distortions[-1] / 5
    assert profile.macs == sum(layer.macs for layer in profile.layers) == 64 * (8 * 27 + 8 * 72) + 16 * 16 * (72 + 144) + 64


def test_a_larger_budget_never_increases_the_distortion() -> None:
    profile = tiny.profile()
    plans = [dc.allocate(profile, dc.Budget(bytes=share)) for share in np.linspace(0.37, 0.55, 19)]
    distortions = [plan.distortion for plan in plans]
    assert distortions == sorted(distortions, reverse=True) and distortions[0] > 2 * distortions[-1]
    for plan, share in zip(plans, np.linspace(0.37, 0.55, 19), strict=True):
        assert plan.cost["bytes"] <= share * profile.float_bytes
    assert dc.allocate(profile, dc.Budget(bytes=round(0.4 * profile.float_bytes))).asked == (
        dc.allocate(profile, dc.Budget(bytes=0.4)).asked
    )


def test_apply_gives_a_torch_model_again_and_export_a_file() -> None:
    small, file = tiny.small(), tiny.file()
    x = torch.from_numpy(HELD_OUT[0])
    with torch.no_grad():
        scores = small.module(x)
    assert scores.shape == (len(x), CLASSES) and not small.module.training
    assert (tiny.predictions(scores) == tiny.predictions(tiny.original_scores())).mean() > 0.95
    ran = run(file.content, {"x": HELD_OUT[0]})[0]
    assert (tiny.predictions(ran) == tiny.predictions(scores)).mean() > 0.95
    assert file.certificate is None and file.content == file.body
    assert file.sizes.file == len(file.body) < 0.45 * file.float_bytes
    assert file.parity.float_error < 1e-5 and file.fused["Conv"][1] == 4
    assert set(file.stages) >= {"prune", "weights", "match"} and file.stages["prune"] == 0
    assert file.stages["weights"] > file.stages["match"] > 0
    assert file.macs[0] == file.macs[1] == tiny.profile().macs


def test_calibration_may_come_in_any_form() -> None:
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(torch.from_numpy(CALIBRATION), torch.zeros(len(CALIBRATION))), batch_size=1
    )
    forms = {
        "loader of single examples": loader,
        "generator": (torch.from_numpy(CALIBRATION[i : i + 40]) for i in range(0, len(CALIBRATION), 40)),
        "float64 in a dict": {"x": CALIBRATION.astype(np.float64), "labels": np.zeros(len(CALIBRATION))},
    }
    expected = tiny.small().encodings
    for name, data in forms.items():
        encodings = dc.apply(network(), tiny.plan(), calibration=data).encodings
        for layer, encoding in encodings.items():
            same = (encoding.codes == expected[layer].codes).float().mean()
            assert same > 0.999, (name, layer)  # sums in another order change one code in a thousand
            torch.testing.assert_close(encoding.scale, expected[layer].scale, rtol=1e-3, atol=0, msg=name)


# ---------------------------------------------------------------- all in one call
@pytest.mark.parametrize("name", RECIPES)
def test_shipped_recipes_end_to_end(name: str) -> None:
    recipe = dc.load_recipe(name, RECIPES[name])
    file = dc.compress(
        network(),
        recipe,
        calibration=None if name in ("heavy-tail", "trajectory") else CALIBRATION,
        held_out=HELD_OUT,
        trajectory=tiny.trained()[1] if name == "trajectory" else None,
    )
    certificate = file.certificate
    assert certificate is not None and certificate.kept and certificate.n == len(HELD_OUT[1])
    scores = run(file.content, {"x": HELD_OUT[0]})[0]
    errors = int((tiny.predictions(scores) != HELD_OUT[1]).sum())
    assert abs(errors - certificate.counts["file_errors"]) <= 1  # other chunks may round a tie differently
    assert certificate.counts["original_errors"] == int((tiny.predictions(tiny.original_scores()) != HELD_OUT[1]).sum())
    assert certificate.lines[0].upper <= 0.05
    whole = {unit for unit, choice in file.plan.asked.items() if unit.startswith("channels:") and choice.keep is None}
    assert file.plan.recipe == name and set(file.plan.realised) == set(file.plan.asked) - whole
    source = {"heavy-tail": "theory", "trajectory": "trajectory"}.get(name, "fisher")
    for unit, why in file.plan.why.items():
        compared = recipe.path or recipe.budget != dc.Budget()
        source_said = f"({'probe' if unit.startswith('channels:') else source})"
        assert (source_said if compared else "the only option") in why
    if recipe.budget.bytes is not None:
        assert len(file.shipped) <= recipe.budget.bytes * file.float_bytes
    assert dc.verify(file, held_out=HELD_OUT).counts == certificate.counts
    ITS_OWN.get(name, lambda _: None)(file)


def _weights_only(file: dc.OnnxFile) -> None:
    assert file.sizes.compute.startswith("float32; weights stored at") and not file.fused.get("Conv", (0, 0))[0]
    assert not file.seen and "match" not in file.stages


def _four_bits(file: dc.OnnxFile) -> None:
    assert {unit: choice.weight_bits for unit, choice in file.plan.asked.items() if unit in LAYERS[1:-1]} == dict.fromkeys(
        LAYERS[1:-1], 4
    )
    assert {file.plan.asked[unit].weight_bits for unit in ("stem", "head")} <= {4, 8}


def _narrower(file: dc.OnnxFile) -> None:
    assert file.macs[1] <= 0.75 * file.macs[0]
    kept = {unit: choice.keep for unit, choice in file.plan.realised.items() if unit.startswith("channels:")}
    assert any(keep is not None for keep in kept.values())


def _chosen(file: dc.OnnxFile) -> None:
    assert file.certificate is not None and file.certificate.promise == 0.05
    assert file.certificate.selection["plans"] == 3 and "fixed-sequence testing over 3 plans" in file.certificate.lines[0].method


def _mixed(file: dc.OnnxFile) -> None:
    assert len({file.plan.realised[name].weight_bits for name in LAYERS}) > 2


def _coded(file: dc.OnnxFile) -> None:
    assert not file.seen and "match" not in file.stages and len(file.packed) < len(file.content)
    assert all(choice.step and choice.activation_bits == 32 for choice in file.plan.realised.values())
    with pytest.raises(dc.InvalidRequest, match="give it, trajectory=run"):
        dc.apply(network(), file.plan, example=CALIBRATION[:1])
    again = dc.apply(network(), file.plan, trajectory=tiny.trained()[1], example=CALIBRATION[:1])
    shipped = dc.export(again)
    assert shipped.body == file.body and shipped.packed != file.packed  # sealed


ITS_OWN = {
    "heavy-tail": _weights_only,
    "edge-int4": _four_bits,
    "narrow": _narrower,
    "certified": _chosen,
    "smallest": _mixed,
    "trajectory": _coded,
}


def test_the_callers_model_is_never_changed() -> None:
    model = copy.deepcopy(network()).train()
    model.norm1.eval()
    model.conv3.weight.requires_grad_(True)
    model.conv3.weight.grad = torch.ones_like(model.conv3.weight)
    model.conv1.register_forward_hook(lambda *_: None)
    before = state(model)
    plan = dc.allocate(dc.measure(model, "narrow", target=TARGET, calibration=CALIBRATION))
    file = dc.compress(model, "narrow", calibration=CALIBRATION, held_out=HELD_OUT, plan=plan)
    assert_unchanged(before, state(model))
    assert file.macs[1] < file.macs[0]
    assert "training mode" in file.notes[0]


def test_a_plan_is_edited_as_text_and_applied_again(tmp_path: Path) -> None:
    head, tail = plan_to_toml(dc.allocate(tiny.profile())).split('[unit."conv3"]')
    path = tmp_path / "plan.toml"
    path.write_text(head + '[unit."conv3"]' + tail.replace("weight_bits = 8", "weight_bits = 4", 1), encoding="utf-8")
    file = dc.compress(network(), "edge-int8", calibration=CALIBRATION, plan=path)
    assert {unit: c.weight_bits for unit, c in file.plan.realised.items()} == {n: 4 if n == "conv3" else 8 for n in LAYERS}
    assert file.body == tiny.file().body


def test_an_edited_plan_overrides_the_recipes_budget() -> None:
    tight = dc.load_recipe("edge-int8", {"budget.bytes": 0.2})
    file = dc.compress(network(), tight, calibration=CALIBRATION, plan=tiny.plan())
    assert file.plan.asked == tiny.plan().asked and len(file.body) > 0.2 * file.float_bytes


def test_a_profile_from_disk_gives_the_same_plan(tmp_path: Path) -> None:
    again = load_profile(save_profile(tiny.profile(), tmp_path / "profile.json"))
    for share in (0.38, 0.4, 0.5):
        assert dc.allocate(again, dc.Budget(bytes=share)) == dc.allocate(tiny.profile(), dc.Budget(bytes=share))


# ---------------------------------------------------------------- sources of distortion
def test_probes_rank_layers_without_gradients() -> None:
    recipe = replace(dc.load_recipe("edge-int8", {"quantize.weight_bits": [8, 3]}), sensitivity=("probe",))
    profile = dc.measure(network(), recipe, target=TARGET, calibration=CALIBRATION)
    assert set(profile.source.values()) == {"probe"}
    distortions = {name: [o.distortion for o in options] for name, options in profile.table.items()}
    assert all(row == sorted(row) and row[0] > 0 and row[-1] < 1 for row in distortions.values())
    # the distortion of the strongest option is the divergence of the network with that layer alone compressed, in nats
    plan = replace(tiny.plan(), asked={"conv2": dc.Choice(weight_bits=3, activation_bits=8)})
    stages = dc.apply(network(), plan, recipe=recipe, calibration=CALIBRATION).stages
    assert stages.get("match", stages["weights"]) == pytest.approx(distortions["conv2"][1], rel=1e-3)


def test_removal_of_channels_is_probed_at_the_smallest_and_largest_option() -> None:
    profile = tiny.profile("narrow")
    units = [unit for unit in profile.table if unit.startswith("channels:")]
    assert len(units) == 3 and {profile.source[unit] for unit in units} == {"probe"}
    lines = profile.table[units[0]]
    assert [line.distortion for line in lines] == sorted(line.distortion for line in lines) and lines[0].distortion == 0
    bare = dc.load_recipe("edge-int8")
    for line in (lines[1], lines[-1]):
        plan = replace(tiny.plan(), asked={units[0]: line.choice})
        assert dc.apply(network(), plan, recipe=bare, calibration=CALIBRATION).stages["match"] == pytest.approx(
            line.distortion,
            rel=0.25,  # a probe uses half of the examples for its refit
        )


def test_theory_needs_no_data_and_follows_its_measures() -> None:
    recipe = dc.load_recipe("heavy-tail")
    profile = dc.measure(network(), recipe, target=TARGET, example=CALIBRATION[:1])
    assert set(profile.source.values()) == {"theory"} and set(profile.estimates) == {"stable_rank", "block_sum", "farms", "hill"}
    rank = {name: e.value for name, e in profile.estimates["stable_rank"].items()}
    sensitivity = {}
    for name, observation in tiny.task(network(), recipe, None, CALIBRATION[:1]).observe((Weight(),)):
        rounded = profile.table[name][0]
        (error,) = layer_errors(observation, [rounded.choice], recipe)
        assert error.pruning == 0
        sensitivity[name] = np.log(rounded.distortion / error.rounding)
    score = (np.array(list(rank.values())) - np.mean(list(rank.values()))) / np.std(list(rank.values()))
    assert list(sensitivity.values()) == pytest.approx(recipe.coefficients["quantization"]["stable_rank"] * score.clip(-2, 2))


def test_layers_that_a_rule_excludes_keep_their_weights() -> None:
    rules = (LayerRule("conv*", leave_alone=True), LayerRule("<last>", weight_bits=(5,)))
    recipe = replace(dc.load_recipe("edge-int8"), layers=rules)
    profile = dc.measure(network(), recipe, target=TARGET, calibration=CALIBRATION)
    assert set(profile.table) == {"stem", "head"}
    assert profile.reasons == dict.fromkeys(("conv1", "conv2", "conv3"), "recipe 'edge-int8' leaves it alone")
    plan = dc.allocate(profile, recipe=recipe)
    weights = {layer.name: layer.weights for layer in profile.layers}
    alone = sum(weights[name] for name in profile.reasons)
    assert plan.share_left_alone["weights"] == pytest.approx(alone / sum(weights.values()))
    assert plan.asked["head"].weight_bits == 5
    small = dc.apply(network(), plan, recipe=recipe, calibration=CALIBRATION)
    assert set(small.encodings) == {"stem", "head"} and "conv1" in str(small.plan)


# ---------------------------------------------------------------- other models
class Recurrent(nn.Module):
    """A recurrent layer and a matrix in an einsum, neither of which is compressed, between two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 8)
        self.gru = nn.GRU(8, 8, batch_first=True)
        self.table = nn.Parameter(torch.randn(8, 12) / 3)
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        last = self.gru(torch.relu(self.inner(x)))[0][:, -1]
        return self.head(torch.relu(torch.einsum("ni,io->no", last, self.table)))


class Pair(nn.Module):
    """Two inputs, an optional third, and a dictionary of outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(4, 16), nn.Linear(3, 16), nn.Linear(16, 3)

    def forward(self, left: Tensor, right: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        hidden = torch.relu(self.a(left) + self.b(right))
        scores = self.head(hidden)
        loss = {} if labels is None else {"loss": nn.functional.cross_entropy(scores, labels)}
        return {**loss, "scores": scores, "hidden": hidden}


def seeded(kind: type[nn.Module]) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind().eval()


def test_layers_that_cannot_be_compressed_are_reported_and_counted() -> None:
    model, x = seeded(Recurrent), np.random.default_rng(0).normal(size=(60, 2, 6)).astype(np.float32)
    plan = dc.allocate(dc.measure(model, "edge-int8", target=TARGET, calibration=x))
    assert set(plan.reasons) == {"table"}
    assert "Recurrent" in plan.reasons["table"]
    alone, rest = 8 * 12, 2 * 24 * 8 + 8 * 6 + 3 * 12
    assert plan.share_left_alone["weights"] == pytest.approx(alone / (alone + rest))
    assert plan.share_left_alone["macs"] == 0, "products with a bare parameter aren't counted"
    assert all(re.search(rf"^{re.escape(name)} +left alone: ", str(plan), re.MULTILINE) for name in plan.reasons)
    small = dc.apply(model, plan, calibration=x)
    assert set(small.encodings) == set(small.plan.realised) == {"inner", "head", "gru.ih_l0", "gru.hh_l0"}
    assert torch.equal(small.module.table, model.table)
    with torch.no_grad():
        new, old = (m(torch.from_numpy(x)).numpy().ravel() for m in (small.module, model))
    assert np.corrcoef(new, old)[0, 1] > 0.99


def test_several_inputs_by_name_and_outputs_in_a_dictionary() -> None:
    model, draw = seeded(Pair), np.random.default_rng(0)
    data = {"left": draw.normal(size=(560, 4)).astype(np.float32), "right": draw.normal(size=(560, 3)).astype(np.float32)}
    labels = draw.integers(0, 3, 560)
    seen = {name: value[:60] for name, value in data.items()} | {"labels": labels[:60]}
    held_out = {name: value[60:] for name, value in data.items()} | {"labels": labels[60:]}
    file = dc.compress(model, "edge-int8", calibration=seen, held_out=held_out)
    outputs = run(file.content, {name: held_out[name] for name in data})
    assert [out.shape for out in outputs] == [(500, 3), (500, 16)]
    with torch.no_grad():
        expected = model(*(torch.from_numpy(held_out[name]) for name in data))
    assert np.corrcoef(outputs[0].ravel(), expected["scores"].numpy().ravel())[0, 1] > 0.995
    assert file.certificate is not None and file.certificate.risk == "zero_one"
    named = dc.apply(model, file.plan, calibration=seen)
    ordered = dc.apply(model, file.plan, calibration=(seen["left"], seen["right"]))
    assert torch.equal(named.encodings["a"].codes, ordered.encodings["a"].codes)


def test_a_target_that_was_never_run_says_so_in_plan_file_and_certificate() -> None:
    file = dc.compress(network(), "edge-int8", target="onnxruntime-arm64", calibration=CALIBRATION, held_out=HELD_OUT)
    warning = "target 'onnxruntime-arm64' was never run on its own hardware"
    assert f"# note: {warning}" in plan_to_toml(file.plan)
    assert any(warning in note for note in file.notes)
    assert file.certificate is not None and any(warning in line for line in file.certificate.assumptions)
