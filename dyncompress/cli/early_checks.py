"""What can be refused about a command before torch is imported, which takes seconds: words, recipes, and files that aren't there.

Also here: no command writes over a file that it reads.
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
FILES = ("plan", "trajectory", "recipe", "target", "profile", "file", "certificate", "runs", "against")  # other words for inputs


def check_words(args: argparse.Namespace) -> None:
    """Refuse what `compress` and `measure` can't begin with.

    Raises:
        InvalidRequest: a recipe, a target, a plan, data or a model that can't be read, or a file that would be written over.
    """
    check_sources(args)
    from dyncompress.recipe.plan_file import read_plan
    from dyncompress.recipe.toml_files import recipe_for, refuse_mismatch, target_for

    plan = None if getattr(args, "plan", None) is None else read_plan(args.plan)
    target = target_for(args.target, plan)  # first: a recipe takes longer to read, with all that it names
    recipe = recipe_for(args.recipe, plan, settings(args.set))
    refuse_mismatch(recipe, target, plan)
    if args.calibration is None and getattr(args, "held_out", None) is None:
        raise InvalidRequest("give --calibration DATA (or --held-out DATA): one example tells what the model takes.")
    names = RESULTS if args.command == "compress" else (PROFILE,)
    if args.out is not None:
        refuse_overwriting(args, [args.out / name for name in names], plan)


def check_sources(args: argparse.Namespace) -> None:
    """Refuse data, a trajectory or a model that aren't there."""
    trajectory = getattr(args, "trajectory", None)
    if trajectory is not None and not is_file(trajectory, f"trajectory '{trajectory}'"):
        raise InvalidRequest(f"trajectory '{args.trajectory}': there is no such file.")
    for word, what in DATA.items():
        if getattr(args, word, None) is not None:
            check_data(getattr(args, word), what)
    if getattr(args, "model", None) is not None:
        check_model(args.model)


def refuse_overwriting(args: argparse.Namespace, outputs: list[Path], plan: Plan | None = None) -> None:
    """Refuse to write over a file that the command reads, under whatever name or link; and a directory in the place of a file.

    A plan that is applied is written again with what was realised, so that `compress --plan out/plan.toml --out out` can be
    repeated: that is refused where notes of the user's own would be lost.

    Raises:
        InvalidRequest: names both.
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
    """Every file that the words name as an input, and the word that names it."""
    for word in ("model", *DATA, *FILES):
        value = getattr(args, word, None)
        for one in value if isinstance(value, list) else [] if value is None else [value]:
            text = str(one)
            path = Path(text.rpartition(":")[0]) if ".py:" in text else Path(text)
            if word == "profile" and path.is_dir():
                path /= PROFILE
            yield ("MODEL" if word == "model" else word.upper() if word in ("file", "profile", "runs") else _option(word)), path


def _option(word: str) -> str:
    return f"--{word.replace('_', '-')}"


def check_ranking(args: argparse.Namespace) -> None:
    """Refuse what `rank` can't begin with: a table that can't be read, measures that don't exist, models that aren't there."""
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
