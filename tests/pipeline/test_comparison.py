"""Allocators side by side: equal budgets, paired intervals, the rule of the verdicts, and reasons where there is no plan."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import dyncompress as dc
from dyncompress.pipeline.comparison.compare_allocators import compare
from dyncompress.pipeline.comparison.contenders import CONTENDERS
from dyncompress.pipeline.comparison.judgement import FEWEST, Resampled, resampled, verdicts
from dyncompress.types.comparison import NO, UNDECIDED, YES, Comparison
from tests import tiny

ZEROS_ONLY = {"erk", "lamp", "global_magnitude", "owl"}
READ_DATA = {"owl", "hawq", "fisher", "fisher_probe", "probe"}


@cache
def compared(action: str) -> Comparison:
    model, run = tiny.trained()
    return compare(model, action=action, calibration=tiny.CALIBRATION, held_out=tiny.HELD_OUT, trajectory=run)


def planned(found: Comparison) -> set[str]:
    return {row.name for row in found if not row.reason}


# ---------------------------------------------------------------- the verb
def test_every_plan_keeps_the_same_bytes() -> None:
    found = compared("bits")
    assert [row.name for row in found] == [contender.name for contender in CONTENDERS]
    assert planned(found) == {contender.name for contender in CONTENDERS} - ZEROS_ONLY
    assert all("zeros only" in found[name].reason for name in ZEROS_ONLY)
    assert found.budget.bytes is not None
    for row in found:
        assert row.reason or row.bytes <= found.budget.bytes
    uniform = found["uniform"].plan
    assert uniform is not None and {choice.weight_bits for choice in uniform.asked.values()} <= {2, 3}  # 3 where that saves
    assert found["uniform"].bytes == found.budget.bytes


def test_every_plan_has_the_zeros_that_are_asked_for() -> None:
    found = compared("zeros")
    assert planned(found) == {contender.name for contender in CONTENDERS}
    assert all(0.699 <= row.zeros <= 0.74 for row in found)  # one step of 0.05 in the largest layer is 0.035
    assert found["lamp"].ratio is not None and found["lamp"].ratio.high < 1  # uniform zeros ruin the stem of this network


def test_a_row_is_what_the_verbs_make_of_its_plan() -> None:
    found = compared("bits")
    for name in ("weight_error", "fisher"):
        row = found[name]
        assert row.plan is not None
        recipe = dc.Recipe("compare-bits", weight_bits=(8, 6, 5, 4, 3, 2), quantizer=_mse())
        small = dc.apply(tiny.network(), row.plan, recipe=recipe, target=tiny.TARGET, calibration=tiny.CALIBRATION)
        with torch.no_grad():
            scores = small.module(torch.from_numpy(tiny.HELD_OUT[0]))
        p, q = (torch.log_softmax(s.double(), 1) for s in (torch.from_numpy(tiny.original_scores()), scores))
        assert row.divergence == pytest.approx(float((p.exp() * (p - q)).sum(1).mean()), rel=1e-4)
        assert row.accuracy == pytest.approx(float((scores.argmax(1).numpy() == tiny.HELD_OUT[1]).mean()))
        assert row.changed == pytest.approx(float((scores.argmax(1) != p.argmax(1)).double().mean()))


def _mse():  # type: ignore[no-untyped-def]
    from dyncompress.quantization import QUANTIZERS

    return QUANTIZERS["mse"]()


def test_distortions_of_a_row_are_those_of_a_recipe_with_this_sensitivity() -> None:
    recipe = dc.Recipe("compare-bits", weight_bits=(8, 6, 5, 4, 3, 2), quantizer=_mse(), sensitivity=("trajectory",))
    model, run = tiny.trained()
    profile = dc.measure(model, recipe, target=tiny.TARGET, calibration=tiny.CALIBRATION, trajectory=run)
    plan, made = dc.allocate(profile, compared("bits").budget, recipe=recipe), compared("bits")["trajectory"].plan
    assert made is not None and made.asked == plan.asked
    assert made.distortion == pytest.approx(plan.distortion)


def test_without_data_and_record_the_rows_say_what_is_missing() -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8)).eval()
    found = compare(model, held_out=np.random.default_rng(0).normal(size=(60, 64)).astype(np.float32))
    assert all("calibration=batches" in found[name].reason for name in READ_DATA)
    assert "trajectory=run" in found["trajectory"].reason
    assert [one.question.split()[0] for one in found.verdicts] == ["theory"]
    assert np.isnan(found["uniform"].accuracy) and np.isfinite(found["uniform"].changed)


def test_outputs_that_are_no_scores_are_compared_by_their_squared_error() -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1)).eval()
    x = torch.randn(200, 64, generator=torch.Generator().manual_seed(0))
    found = compare(model, calibration=x[:64], held_out=x[64:])
    assert found.unit == "relative squared error" and np.isnan(found["uniform"].changed)
    assert 0 < found["uniform"].divergence < 1


def test_the_model_is_not_changed() -> None:
    model, _ = tiny.trained()
    before = hashlib.sha256(b"".join(value.numpy().tobytes() for value in model.state_dict().values())).hexdigest()
    mode = model.training
    compare(model, held_out=tiny.HELD_OUT[0][:60], calibration=tiny.CALIBRATION[:32])
    after = hashlib.sha256(b"".join(value.numpy().tobytes() for value in model.state_dict().values())).hexdigest()
    assert after == before and model.training == mode


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "give held_out=x"),
        ({"held_out": tiny.HELD_OUT, "action": "bit"}, "action"),
        ({"held_out": tiny.HELD_OUT, "budget": {"sparsity": 0.5}}, r"give budget\.bytes alone"),
        ({"held_out": tiny.HELD_OUT, "action": "zeros", "budget": {"bytes": 0.5}}, r"give budget\.sparsity alone"),
        ({"held_out": tiny.CALIBRATION, "calibration": tiny.CALIBRATION}, "held-out examples equal calibration examples"),
    ],
)
def test_what_cannot_be_compared_is_refused(arguments: dict, message: str) -> None:
    with pytest.raises(dc.InvalidRequest, match=message):
        compare(tiny.network(), **arguments)


def test_a_budget_that_no_plan_keeps_is_refused() -> None:
    with pytest.raises(dc.Infeasible, match="bytes"):
        compare(tiny.network(), held_out=tiny.HELD_OUT[0][:60], budget={"bytes": 0.01})


def test_the_value_shows_its_table_and_its_drawing() -> None:
    found = compared("bits")
    assert found.table().startswith("theory without data earns its place here: ") and "exact weight errors" in found.table()
    assert found._repr_html_().count("<circle") == len(planned(found)) and "<table>" in found._repr_html_()


# ---------------------------------------------------------------- intervals
def test_paired_intervals_hold_the_true_ratio_as_often_as_they_say() -> None:
    """Two files with a common factor for each example: 95 % intervals miss the ratio 0.8 in 2 to 10 % of 200 samples."""
    generator, missed, unpaired = np.random.default_rng(0), 0, 0
    for _ in range(200):
        hard = generator.gamma(1.0, 1.0, 200)
        one, other = 0.8 * hard * generator.gamma(4.0, 0.25, 200), hard * generator.gamma(4.0, 0.25, 200)
        ratio = resampled({"one": one, "other": other}).ratio("one", "other")
        missed += not ratio.low <= 0.8 <= ratio.high
        unpaired += (ratio.high - ratio.low) < 2 * 1.96 * 0.8 * np.hypot(
            *(d.std() / d.mean() / len(d) ** 0.5 for d in (one, other))
        )
    assert 4 <= missed <= 20
    assert unpaired > 190  # pairing is what makes them short


def test_examples_of_one_group_are_drawn_together() -> None:
    generator = np.random.default_rng(1)
    groups = np.repeat(np.arange(40), 25)
    shared = generator.gamma(1.0, 1.0, 40)[groups]
    files = {"a": shared, "b": generator.gamma(1.0, 1.0, 40)[groups]}
    alone, together = resampled(files), resampled(files, groups)
    assert together.independent == 40 and alone.independent == 1000
    assert together.stderr("a") == pytest.approx(5 * alone.stderr("a"), rel=0.15)  # sqrt of 25 copies
    assert together.means == pytest.approx(alone.means)


# ---------------------------------------------------------------- verdicts
def measured(*, n: float = 2000, shape: float = 10, **means: float) -> Resampled:
    """Divergences with these means; the larger `shape`, the more do files agree about what is hard."""
    generator = np.random.default_rng(0)
    hard = generator.gamma(1.0, 1.0, int(n))
    drawn = {name: hard * generator.gamma(shape, 1 / shape, int(n)) for name in means}
    return resampled({name: means[name] * values / values.mean() for name, values in drawn.items()})


@pytest.mark.parametrize(
    ("means", "answer"),
    [
        ({"theory": 0.5}, YES),
        ({"theory": 1.5, "farms": 0.6}, YES),
        ({"theory": 0.8, "weight_error": 0.5}, NO),  # better than uniform, not than exact errors
        ({"theory": 1.2}, NO),
        ({"theory": 0.97}, NO),  # less than a tenth counts as none
        ({"theory": 0.95, "n": 60, "shape": 1}, UNDECIDED),
    ],
)
def test_the_verdict_follows_from_the_intervals(means: dict[str, float], answer: str) -> None:
    first = verdicts(measured(**{"uniform": 1.0, "weight_error": 1.0, **means}))[0]
    assert first.answer == answer and "theory" in first.question


@pytest.mark.parametrize(
    ("trajectory", "n", "answer"), [(0.7, 2000, YES), (1.03, 2000, YES), (1.5, 2000, NO), (1.03, 60, UNDECIDED)]
)
def test_a_record_replaces_data_if_it_is_no_worse(trajectory: float, n: int, answer: str) -> None:
    found = verdicts(measured(n=n, shape=n / 50, uniform=2.0, weight_error=2.0, trajectory=trajectory, fisher=1.0))
    assert [one.answer for one in found if one.question.startswith("the recorded")] == [answer]


def test_few_examples_give_no_answer() -> None:
    few = verdicts(measured(n=FEWEST - 1, uniform=1.0, weight_error=1.0, theory=0.1))[0]
    assert few.answer == UNDECIDED and f"{FEWEST} are needed" in few.why


def test_many_candidates_have_longer_intervals() -> None:
    """The best of four that are all equal to the baselines is called better in at most 5 % of samples."""
    wrong = 0
    for seed in range(100):
        generator = np.random.default_rng(seed)
        hard = generator.gamma(1.0, 1.0, 300)
        names = ("uniform", "weight_error", "theory", "trajectory", "alpha_pruning", "farms")
        found = resampled({name: hard * generator.gamma(2.0, 0.5, 300) for name in names})
        wrong += verdicts(found)[0].answer == YES
    assert wrong <= 8


def test_an_onnx_file_is_compared_as_the_module_that_it_was_made_from(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8)).eval()
    x = np.random.default_rng(0).normal(size=(260, 64)).astype(np.float32)
    path = tmp_path / "net.onnx"
    path.write_bytes(dc.compress(model, calibration=x[:64], keep_float=True).float_body)
    module, file = (compare(one, calibration=x[:64], held_out=x[64:]) for one in (model, path))
    assert planned(file) == planned(module)
    assert file["fisher"].divergence == pytest.approx(module["fisher"].divergence, rel=0.05)


def test_a_checkpoint_is_a_recorded_training(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, path = nn.Sequential(nn.Linear(32, 48), nn.ReLU(), nn.Linear(48, 4)), tmp_path / "last.pt"
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    x = torch.randn(600, 32)
    for rows in torch.randint(0, 400, (300, 32)):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[rows]), x[rows, :4].argmax(1)).backward()
        optimizer.step()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "batch_size": 32}, path)
    found = compare(model.eval(), held_out=x[400:], trajectory=path)
    assert {"trajectory", "theory"} < planned(found) and "calibration=batches" in found["fisher_trajectory"].reason
