"""Checks of a command's arguments, recipes and files before torch is imported, which takes seconds.

They also make sure that no command overwrites a file that it reads.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from dyncompress.cli.option_values import settings
from dyncompress.cli.sources import check_data, check_model
from dyncompress.errors import InvalidRequest
from dyncompress.recipe.text_files import is_file
from dyncompress.reports.output_files import PROFILE, RESULTS

if TYPE_CHECKING:
    from dyncompress.types import Plan

DATA = {"calibration": "calibration data", "held_out": "held-out data", "data": "data", "example": "example"}
NO_DATA = "give --calibration DATA (or --held-out or --example DATA): one example is needed to determine the model's inputs."
# Other arguments that name input files.
FILES = ("plan", "trajectory", "recipe", "target", "profile", "file", "certificate", "runs", "against")


def check_arguments(args: argparse.Namespace) -> None:
    """Check the arguments of `compress` and `measure`.

    Raises:
        InvalidRequest: a recipe, target, plan, model or data file can't be read, or an input file would be overwritten.
    """
    check_sources(args)
    from dyncompress.recipe.plan_file import read_plan
    from dyncompress.recipe.toml_files import recipe_for, refuse_mismatch, target_for

    plan = None if getattr(args, "plan", None) is None else read_plan(args.plan)
    target = target_for(args.target, plan)  # first, because reading a recipe takes longer
    recipe = recipe_for(args.recipe, plan, settings(args.set))
    refuse_mismatch(recipe, target, plan)
    if args.calibration is None and getattr(args, "held_out", None) is None and args.example is None:
        raise InvalidRequest(NO_DATA)
    if args.batch_size is not None and args.trajectory is None:
        raise InvalidRequest(f"--batch-size {args.batch_size} is that of a training; give its checkpoint by --trajectory PATH.")
    names = RESULTS if args.command == "compress" else (PROFILE,)
    if args.out is not None:
        refuse_overwriting(args, [args.out / name for name in names], plan)


def check_sources(args: argparse.Namespace) -> None:
    """Refuse data, a trajectory or a model that don't exist."""
    trajectory = getattr(args, "trajectory", None)
    if trajectory is not None and not trajectory.is_dir() and not is_file(trajectory, f"trajectory '{trajectory}'"):
        raise InvalidRequest(f"trajectory '{args.trajectory}': there is no such file or folder.")
    for word, what in DATA.items():
        if getattr(args, word, None) is not None:
            check_data(getattr(args, word), what)
    if getattr(args, "model", None) is not None:
        check_model(args.model)


def refuse_overwriting(args: argparse.Namespace, outputs: list[Path], plan: Plan | None = None) -> None:
    """Refuse to overwrite a file that the command reads, links to it included, and an output that is a directory.

    The plan that is applied may be overwritten, so that `compress --plan out/plan.toml --out out` can be repeated, unless
    comments of the user would be lost.

    Args:
        args: of the command.
        outputs: the files that the command writes.
        plan: the plan that is applied, read from `args.plan`.

    Raises:
        InvalidRequest: names the output and the input.
    """
    for out in outputs:
        if out.is_dir():
            raise InvalidRequest(f"--out {args.out}: {out} is a directory where a file is to be written; name another place.")
        for word, path in _inputs(args):
            if not (out.exists() and path.exists() and out.samefile(path)):
                continue
            if plan is None or word != "--plan":
                raise InvalidRequest(f"--out {args.out}: {out} is what {word} reads and would be lost; name another place.")
            from dyncompress.recipe.plan_file import user_comments

            if notes := user_comments(path.read_text(encoding="utf-8-sig"), plan):
                raise InvalidRequest(
                    f"--out {args.out}: {out} is the plan that is applied, and your comment '{notes[0]}' in it would be lost; "
                    "name another directory."
                )


def _inputs(args: argparse.Namespace) -> Iterator[tuple[str, Path]]:
    """Pairs of an argument's name, as messages show it, and the input file that it names."""
    for word in ("model", *DATA, *FILES):
        value = getattr(args, word, None)
        for one in value if isinstance(value, list) else [] if value is None else [value]:
            text = str(one)
            path = Path(text.rpartition(":")[0]) if ".py:" in text else Path(text)
            if word == "profile" and path.is_dir():
                path /= PROFILE
            yield ("MODEL" if word == "model" else word.upper() if word in ("file", "profile", "runs") else _option(word)), path


def _option(word: str) -> str:
    """`held_out` as `--held-out`."""
    return f"--{word.replace('_', '-')}"


def check_ranking(args: argparse.Namespace) -> None:
    """Check the arguments of `rank`: the table, the names of measures, and the models."""
    from dyncompress.cli.run_table import MODEL, read_runs
    from dyncompress.measures import MEASURES
    from dyncompress.recipe.checks import check_one_of

    runs = read_runs(args.runs)
    for name in args.measures:
        check_one_of(name, MEASURES, "--measures: a name")
    check_sources(args)
    for name, row in runs.rows.items():
        if MODEL in row:
            check_model(runs.model(name))
