"""The harness of the frontier benchmark: selection, evaluation, storage, continuation and rendering."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import frontier, frontier_plots, frontier_tables
from benchmarks.frontier_data import CALIBRATION, DISTILLATION_IMAGES, SEEDS, TRAINING, TUNING, Case, Made, NotHereError, chosen
from benchmarks.frontier_ours import Ours, Stopwatch
from benchmarks.frontier_results import key_of, put, read, summary, write
from benchmarks.frontier_rows import FAMILIES, OURS, ROWS, TUNED, Aim, Row
from benchmarks.judging import judged
from dyncompress.recipe.bundled_files import recipe_files

FLOAT = {"bytes": 1000, "container": 950, "payload": 900, "macs": 100, "accuracy": 80.0}


def entry(drop: float, **other: Any) -> dict[str, Any]:
    """The stored entry of one seed."""
    made = {"bytes": 250, "container": 200, "macs": 50, "seconds": 2.0, "cpu_seconds": 1.0, "fingerprint": "f", "load": 0.9}
    made["phases"] = {"observe": 1.5, "round": 0.3, "write": 0.2}
    made["threads"] = 1
    ratios = {"file_ratio": 4.0, "container_ratio": 5.0, "coded_payload_ratio": 6.0, "macs_ratio": 2.0}
    return {**made, **ratios, "drop": drop, "drop_low": drop - 0.2, "drop_high": drop + 0.2, "accuracy": 80 - drop, **other}


def results(**rows: dict[str, Any]) -> dict[str, Any]:
    """The results of one network; the last letter of a key is the seed."""
    named = {key_of(key[:-1], int(key[-1])): value for key, value in rows.items()}
    return {"net": "resnet20", "float": FLOAT, "rows": named, "timings": {}}


# ---------------------------------------------------------------- images
@pytest.mark.parametrize("n", [CALIBRATION, DISTILLATION_IMAGES])
def test_seed_0_is_the_first_images_and_others_are_drawn(n: int) -> None:
    assert np.array_equal(chosen(0, n), np.arange(n))
    for seed in SEEDS[1:]:
        assert np.array_equal(chosen(seed, n), np.random.default_rng(seed).choice(TRAINING, n, replace=False))
        assert len(np.unique(chosen(seed, n))) == n


@pytest.mark.parametrize(("n", "left"), [(CALIBRATION, 1900), (DISTILLATION_IMAGES, 1200)])
def test_tuning_images_lie_outside_every_calibration_set(monkeypatch: pytest.MonkeyPatch, n: int, left: int) -> None:
    import torch

    from benchmarks import frontier_data

    images = torch.arange(TUNING[n].stop).reshape(-1, 1, 1, 1).float()
    monkeypatch.setattr(frontier_data, "cifar10", lambda split, n: (images[:n], None))
    found = set(frontier_data.tuning_images(n).ravel().astype(int))
    assert found <= set(range(TUNING[n].start, TUNING[n].stop))
    assert not any(found & set(chosen(seed, n)) for seed in SEEDS)
    assert len(found) > left


def test_the_drop_is_paired_and_its_interval_is_the_normal_one() -> None:
    y = np.zeros(100, int)
    before, after = np.zeros((100, 2)), np.zeros((100, 2))
    before[:, 0] = after[:, 0] = 1
    before[:10] = after[5:25] = (0, 1)  # 5 become right, 15 become wrong
    found = judged(after, before, y)
    half = 196 * np.sqrt(0.2 - 0.1**2) / 10
    assert found["drop"] == pytest.approx(10)
    assert found["drop_high"] - found["drop"] == pytest.approx(half)
    assert found["accuracy"] == pytest.approx(80)
    assert found["agreement"] == pytest.approx(80)


# ---------------------------------------------------------------- rows as data
def test_rows_have_unique_names_that_name_files_and_known_families() -> None:
    names = [row.name for row in ROWS]
    assert len(set(names)) == len(names)
    assert not [name for name in names if "/" in name or "@" in name]
    assert {row.family for row in ROWS} <= set(FAMILIES)
    assert {row.tool for row in ROWS} <= set(frontier_plots.MARKS)


@pytest.mark.parametrize("row", OURS, ids=lambda row: row.name)
@pytest.mark.parametrize("net", frontier.NETS)
def test_rows_load_their_shipped_recipes(row: Row, net: str) -> None:
    assert isinstance(row.make, Ours)
    if row.make.recipe in recipe_files():
        assert row.make.for_network(net).name == row.make.recipe
        assert row.make.fingerprint(net) == replace(row.make).fingerprint(net)
    else:
        with pytest.raises(NotHereError, match="isn't shipped"):
            row.make.for_network(net)


def test_a_fingerprint_follows_overrides_of_its_network_only() -> None:
    plain, bound = Ours("smallest"), Ours("smallest", by_net={"resnet20": {"budget.bytes": 0.2}})
    assert plain.fingerprint("resnet20") != bound.fingerprint("resnet20")
    assert plain.fingerprint("resnet44") == bound.fingerprint("resnet44")
    assert plain.fingerprint("resnet44") != replace(plain, images=DISTILLATION_IMAGES).fingerprint("resnet44")
    assert bound.for_network("resnet20").budget.bytes == 0.2


def test_every_entry_on_tuning_is_about_rows() -> None:
    for entry in TUNED:
        for pattern in entry.rows.split(", "):
            assert any(fnmatchcase(row.name, pattern) for row in ROWS), pattern


# ---------------------------------------------------------------- stored and continued
@dataclass(frozen=True)
class Fake:
    """A tool that counts how often it is called."""

    calls: list[int]
    number: int = 0

    def __call__(self, case: Case) -> Made:
        self.calls.append(case.seed)
        return Made(b"", 1, 0.0, 0.0, {})

    def __repr__(self) -> str:
        return f"Fake({self.number})"


def test_an_interrupted_run_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def made(row: Row, case: Case) -> dict[str, Any]:
        row.make(case)
        return entry(1.0, fingerprint=frontier.fingerprint(row, case.net))

    monkeypatch.setattr(frontier, "entry", made)
    calls: list[int] = []
    rows = [Row("a", "int8", "NNCF", Fake(calls)), Row("b", "int8", "NNCF", Fake(calls), seeds=(0,))]
    for seed in (0, 1):
        frontier.run(rows, "resnet20", seed, tmp_path, folder=tmp_path)
    assert calls == [0, 0, 1]
    frontier.run(rows, "resnet20", 0, tmp_path, folder=tmp_path)
    assert calls == [0, 0, 1]
    frontier.run([replace(rows[0], make=Fake(calls, number=1))], "resnet20", 1, tmp_path, folder=tmp_path)
    assert calls == [0, 0, 1, 1], "other settings are another row"
    frontier.run(rows, "resnet20", 0, tmp_path, again=True, folder=tmp_path)
    assert calls == [0, 0, 1, 1, 0, 0]


def test_rows_that_cannot_run_here_are_passed_over_with_the_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = Row("none", "int8", "dyncompress", Ours("no-such-recipe"))
    frontier.run([row], "resnet20", 0, tmp_path, folder=tmp_path)
    assert "passed over, recipe 'no-such-recipe' isn't shipped" in capsys.readouterr().out
    assert not list(tmp_path.glob("*.json"))


def test_rows_of_other_processes_stay(tmp_path: Path) -> None:
    write(results(a0=entry(1.0)), tmp_path)
    put("resnet20", key_of("b", 1), entry(2.0), tmp_path)
    assert set(read("resnet20", tmp_path)["rows"]) == {key_of("a", 0), key_of("b", 1)}
    assert [path.name for path in tmp_path.iterdir()] == ["frontier_resnet20.json"]


def test_a_summary_has_mean_range_and_the_worst_ratios() -> None:
    found = results(a0=entry(1.0), a1=entry(3.0, container_ratio=3.5), a2=entry(2.0))
    found["timings"] = {
        "environment": {},
        "1": {"float32": {"median": 2e-3, "relative": 1.0}, "a": {"median": 1e-3, "relative": 0.5}},
    }
    made = summary("a", SEEDS, found)
    assert made is not None
    assert (made.drop, made.drop_best, made.drop_worst, made.drop_high) == (2.0, 1.0, 3.0, 3.2)
    assert made.container_ratio == 3.5
    assert (made.milliseconds, made.faster) == ({1: 1.0}, {1: 2.0})
    assert summary("b", SEEDS, found) is None


def test_a_nested_phase_does_not_count_for_the_outer_one(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 1.0, 4.0, 6.0, 10.0, 11.0])  # outer 0..6 with inner 1..4; then outer again 10..11
    monkeypatch.setattr(time, "perf_counter", lambda: next(now))
    watch = Stopwatch()
    with watch.phase("outer"), watch.phase("inner"):
        pass
    with watch.phase("outer"):
        pass
    assert watch.seconds == {"inner": 3.0, "outer": 4.0}


# ---------------------------------------------------------------- rendered
def test_an_aim_is_judged_by_the_worst_seed() -> None:
    made = summary("a", SEEDS, results(a0=entry(0.5), a1=entry(1.5)))
    assert made is not None
    assert frontier_tables.shortfalls(Aim(1.5, payload=6, container=5, macs=2, seconds=2), made) == []
    assert frontier_tables.shortfalls(Aim(1.0, payload=7), made) == ["drop 1.50", "payload 6.00x"]
    assert frontier_tables.shortfalls(Aim(2.0, faster=(2.0, 3.0)), made) == ["batch 1 not timed", "batch 16 not timed"]


def test_tables_hold_every_finished_row_and_only_those() -> None:
    found = results(**{"edge-int80": entry(0.1), "NNCF0": entry(0.2, container=100, container_ratio=10.0)})
    text = "\n".join(frontier_tables.tables("resnet20", found))
    assert "| **edge-int8** | - | +0.10 (one seed) | +0.30 | 250 (4.00x) | 200 (5.00x) | 6.00x | 2.00x | - | - | 2 (1) |" in text
    assert "| NNCF | - | +0.20 (one seed) | +0.40 | 250 (4.00x) | 100 (10.00x) |" in text
    assert "- edge-int8: observe 1.5, the rest 0.5." in text
    assert "NNCF mixed" not in text
    assert "1,000 bytes" in text
    short = "\n".join(frontier_tables.tables("resnet20", found, short=True))
    assert "| `edge-int8` | +0.10 (one seed) | 4.0x smaller | 5.0x |" in short


def test_rows_made_beside_other_work_are_counted() -> None:
    assert frontier_tables.busy(results(a0=entry(0.1))) == []
    assert "1 of 2 entries" in frontier_tables.busy(results(a0=entry(0.1), a1=entry(0.1, load=3.0)))[0]


def test_only_the_block_between_the_markers_is_rewritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{frontier_tables.BEGIN}old\n{frontier_tables.END}\nafter\n")
    (tmp_path / "other.md").write_text("no markers\n")
    monkeypatch.setattr(frontier_tables, "PAGES", {page: False, tmp_path / "other.md": True})
    monkeypatch.setattr(frontier_tables, "block", lambda short: ["new"])
    assert not frontier_tables.up_to_date()
    frontier_tables.write_all()
    assert frontier_tables.up_to_date()
    assert page.read_text() == f"before\n{frontier_tables.BEGIN}new\n{frontier_tables.END}\nafter\n"
    assert (tmp_path / "other.md").read_text() == "no markers\n"


def test_the_same_results_draw_the_same_bytes(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="plots need the extra `plots`")
    found = results(**{"edge-int80": entry(0.1), "NNCF0": entry(30.0)})
    for name in ("a.svg", "b.svg"):
        frontier_plots.draw("resnet20", found, tmp_path / name)
    first, second = ((tmp_path / name).read_bytes() for name in ("a.svg", "b.svg"))
    assert first == second
    assert b"edge-int8" in first
    assert len(first) < 60_000
