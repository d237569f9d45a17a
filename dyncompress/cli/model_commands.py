"""The commands about a model and its profile: each calls a verb and returns what to print."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dyncompress.cli.option_values import amounts, settings
from dyncompress.cli.results import Result, input_file
from dyncompress.coding.whole_files import check_writable, check_writable_file, deliver, made
from dyncompress.reports import (
    as_json,
    as_text,
    layer_table,
    left_alone_sentence,
    measures_sentence,
    predicted_sentence,
    profile_table,
)
from dyncompress.reports.output_files import PROFILE, RESULTS, write_directory
from dyncompress.types.progress import Progress


def compress(args: argparse.Namespace, progress: Progress) -> Result:
    """`dyncompress compress`: write the compressed file with its certificate, plan, profile and report."""
    check_writable(args.out)
    from dyncompress.cli.early_checks import check_arguments

    check_arguments(args)
    from dyncompress.cli.requests import compress_model

    return _written(args.out, *compress_model(args, progress))


def demo(args: argparse.Namespace, progress: Progress) -> Result:
    """`dyncompress demo`: compress a small network that is trained on handwritten digits."""
    check_writable(args.out)
    from dyncompress.cli.early_checks import refuse_overwriting

    refuse_overwriting(args, [args.out / name for name in RESULTS])
    from dyncompress.cli.demo import run

    return _written(args.out, run(progress)[0], None)


def _written(out: Path, file: Any, profile_text: str | None) -> Result:
    """Write the files of a run, and describe the ONNX file, most important numbers first."""
    paths = write_directory(file, out, profile_text)
    layers, estimates = (file.profile.layers, file.profile.estimates) if file.profile is not None else ((), {})
    where = "files: " + ", ".join(str(path) for path in paths.values())
    text = "\n\n".join((as_text(file), layer_table(file.plan, layers, estimates).plain(), where))
    return Result(text, as_json(file, paths))


def measure(args: argparse.Namespace, progress: Progress) -> Result:
    """`dyncompress measure`: the table of all layers, and the profile as a file if `--out` is given."""
    if args.out is not None:
        check_writable(args.out)
    from dyncompress.cli.early_checks import check_arguments

    check_arguments(args)
    from dyncompress.allocation.plan import share_left_alone
    from dyncompress.cli.requests import measure_model

    profile, text = measure_model(args, progress)
    paths = deliver(args.out, {PROFILE: text}) if args.out is not None else {}
    estimates = {name: {layer: asdict(e) for layer, e in by_layer.items()} for name, by_layer in profile.estimates.items()}
    shares = share_left_alone(profile.layers, profile.reasons)
    alone = left_alone_sentence(shares, profile.reasons)
    sentences = filter(None, [alone, measures_sentence(profile), *(f"note: {note}" for note in profile.notes)])
    lines = [profile_table(profile).plain(), "", *sentences, *map(str, paths.values())]
    data = {"bytes": profile.float_bytes, "macs": profile.macs, "left_alone": {**shares, "layers": profile.reasons}}
    data |= {"distortion_unit": profile.unit, "sources": profile.source}
    return Result("\n".join(lines), {**data, "estimates": estimates, "notes": profile.notes, "paths": paths})


def probe(args: argparse.Namespace, progress: Progress) -> Result:
    """`dyncompress probe`: write the trajectory of a short training run."""
    check_writable_file(args.out)
    from dyncompress.cli.early_checks import check_sources, refuse_overwriting

    check_sources(args)
    refuse_overwriting(args, [args.out])
    from dyncompress.cli.requests import record_probe
    from dyncompress.recording import save_trajectory

    trajectory = record_probe(args, progress)
    with made(args.out.parent):
        path = save_trajectory(trajectory, args.out)
    records, notes = len(trajectory.steps), trajectory.notes
    text = "\n".join((f"{path}: {records} records of {len(trajectory.motion)} layers", *(f"note: {note}" for note in notes)))
    data = {"path": path, "records": records, "learning_rate": trajectory.learning_rate, "notes": notes}
    return Result(text, {**data, "digest": trajectory.digest})


def rank(args: argparse.Namespace, progress: Progress) -> Result:
    """`dyncompress rank`: the runs of a table, in the order that measures predict."""
    from dyncompress.cli.early_checks import check_ranking

    check_ranking(args)
    from dyncompress.cli.requests import rank_runs
    from dyncompress.reports.ranking import ranking_json, ranking_text

    ranking = rank_runs(args, progress)
    return Result(ranking_text(ranking), ranking_json(ranking))


def plan(args: argparse.Namespace, progress: Progress) -> Result:
    """`dyncompress plan`: the plan for a budget, and its file if `--out` is given."""
    from dyncompress.cli.early_checks import refuse_overwriting
    from dyncompress.recipe.plan_file import plan_to_toml
    from dyncompress.recipe.profile_file import profile_from_json
    from dyncompress.recipe.toml_files import recipe_for

    source = input_file(args.profile, PROFILE)
    if args.out is not None:
        check_writable_file(args.out)
        refuse_overwriting(args, [args.out])
    profile = profile_from_json(source)
    recipe = recipe_for(args.recipe, profile, settings(args.set))
    from dyncompress.pipeline.verbs import allocate

    plan = allocate(profile, recipe=recipe)
    paths = deliver(args.out.parent, {args.out.name: plan_to_toml(plan)}) if args.out is not None else {}
    shares = {name: plan.share_left_alone.get(name, 0.0) for name in ("weights", "macs")}
    alone = left_alone_sentence(plan.share_left_alone, plan.reasons)
    notes = "".join(f"\nnote: {note}" for note in plan.notes)
    predicted = f"{predicted_sentence(plan, profile)}\n{alone}{notes}"
    text = "\n\n".join((layer_table(plan, profile.layers, profile.estimates).plain(), predicted))
    data = {"predicted": {**plan.cost, "distortion": plan.distortion, "gap": plan.gap}, "left_alone": shares, "paths": paths}
    return Result(text, {**data, "notes": plan.notes})


def pareto(args: argparse.Namespace, progress: Progress) -> Result:
    """`dyncompress pareto`: the plans for several budgets, and their curve if `--out` is given."""
    from dyncompress.cli.early_checks import refuse_overwriting
    from dyncompress.pipeline.pareto import pareto
    from dyncompress.recipe.profile_file import profile_from_json
    from dyncompress.recipe.toml_files import recipe_for
    from dyncompress.reports.pareto import drawn_as, pareto_json, pareto_text

    if args.out is not None:
        check_writable_file(args.out)
        refuse_overwriting(args, [args.out])
    write = None if args.out is None else drawn_as(args.out)
    profile = profile_from_json(input_file(args.profile, PROFILE))
    budgets = [{args.of: value} for value in amounts(args.budgets)]
    curve = pareto(profile, budgets, of=args.of, recipe=recipe_for(args.recipe, profile, settings(args.set)))
    paths = {} if args.out is None or write is None else deliver(args.out.parent, {args.out.name: write(curve)})
    text = "\n".join((pareto_text(curve), *map(str, paths.values())))
    return Result(text, {**pareto_json(curve), "paths": paths})
