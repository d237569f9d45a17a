"""The command `compare`: its arguments, and its call of the verb."""

from __future__ import annotations

import argparse
from pathlib import Path

from dyncompress.cli.option_values import positive
from dyncompress.cli.results import Result
from dyncompress.cli.shared_arguments import add_trajectory
from dyncompress.coding.whole_files import check_writable, deliver
from dyncompress.types.progress import Progress

SUMMARY = "compare allocators on a network at one budget, and say whether theory earns its place there"


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the arguments of `compare` to its parser."""
    command.add_argument("model", metavar="MODEL", help="the trained network, as file.py:callable or package.module:callable")
    command.add_argument(
        "--held-out",
        required=True,
        metavar="DATA",
        help="examples that aren't used otherwise, on which the plans are compared; a few hundred or more",
    )
    command.add_argument(
        "--calibration",
        metavar="DATA",
        help="examples on which the model is observed; labels are ignored; default: none, and allocators that read data are "
        "left out",
    )
    add_trajectory(command)
    command.add_argument(
        "--action",
        choices=("bits", "zeros"),
        default="bits",
        help="what is allocated: bit widths, or zeros by magnitude; default: %(default)s",
    )
    command.add_argument(
        "--bytes",
        type=positive,
        metavar="B",
        help="budget of the action bits: bytes of the file (below 1: a fraction of the original's); default: the bytes of 3 bits "
        "in every layer",
    )
    command.add_argument(
        "--sparsity", type=positive, metavar="S", help="budget of the action zeros: share of zeros; default: 0.7"
    )
    command.add_argument(
        "--target",
        default="onnxruntime-x86-vnni",
        metavar="NAME|FILE",
        help="hardware profile that the weights are rounded for; default: %(default)s",
    )
    command.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="directory for the table (comparison.md, comparison.csv) and the drawing (comparison.svg); default: printed only",
    )


def compare(args: argparse.Namespace, progress: Progress) -> Result:
    """`dyncompress compare`: the allocators, the verdicts, and their files if `--out` is given."""
    from dyncompress.cli.early_checks import check_sources, refuse_overwriting
    from dyncompress.recipe.toml_files import load_target
    from dyncompress.reports.comparison import FILES, comparison_files, comparison_json, comparison_text

    if args.out is not None:
        check_writable(args.out)
        refuse_overwriting(args, [args.out / name for name in FILES])
    check_sources(args)
    target = load_target(args.target)
    from dyncompress.cli.sources import load_data, load_model
    from dyncompress.pipeline.comparison import compare as compare_allocators

    budget = {name: value for name in ("bytes", "sparsity") if (value := getattr(args, name)) is not None}
    held_out = load_data(args.held_out, "held-out data")
    found = compare_allocators(
        load_model(args.model),
        action=args.action,
        budget=budget or None,
        target=target,
        calibration=None if args.calibration is None else load_data(args.calibration, "calibration data"),
        held_out=held_out,
        trajectory=args.trajectory,
        progress=progress,
    )
    paths = deliver(args.out, comparison_files(found)) if args.out is not None else {}
    text = "\n".join((comparison_text(found), *map(str, paths.values())))
    return Result(text, {**comparison_json(found), "paths": paths})
