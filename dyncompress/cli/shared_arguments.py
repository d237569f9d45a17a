"""Arguments that several commands share: the model with its data, the training run, and changes of the recipe."""

from __future__ import annotations

import argparse
from pathlib import Path

from dyncompress.cli.option_values import integer


def add_request(command: argparse.ArgumentParser, default: str, needed: str) -> None:
    """Add the arguments that `compress` and `measure` share.

    Args:
        command: to add them to.
        default: where the recipe and the target come from first, for their help.
        needed: when calibration data are needed, for its help.
    """
    command.add_argument("model", metavar="MODEL", help="the trained network, as file.py:callable or package.module:callable")
    command.add_argument(
        "--recipe", metavar="NAME|FILE", help=f"recipe, see `dyncompress recipes list`; default: {default}edge-int8"
    )
    command.add_argument(
        "--target",
        metavar="NAME|FILE",
        help=f"hardware profile that the file is for, see `dyncompress targets list`; default: {default}onnxruntime-x86-vnni",
    )
    command.add_argument(
        "--calibration",
        metavar="DATA",
        help=f"examples on which the model is observed; labels are ignored; {needed}",
    )
    command.add_argument(
        "--free-axes",
        action="append",
        default=[],
        metavar="INPUT=AXES",
        help="axes of an input that may have any length in the file, e.g. x=2,3 (axis 0 is the batch axis, which is free); may "
        "be repeated; default: the axes whose length differs within the calibration data",
    )
    command.add_argument(
        "--example",
        metavar="DATA",
        help="one batch that shows what the model takes, where no other data are given; default: none",
    )
    add_trajectory(command)
    command.add_argument(
        "--batch-size",
        type=integer(1, 10**9),
        metavar="N",
        help="examples in one optimizer step of that training, accumulated batches included, where the checkpoint doesn't say; "
        "default: unknown, distortions are then relative",
    )
    add_set(command)


def add_set(command: argparse.ArgumentParser) -> None:
    """Add the argument that changes keys of the recipe."""
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change one key of the recipe, e.g. budget.bytes=0.2 (a fraction of the original's bytes); may be repeated",
    )


def add_trajectory(command: argparse.ArgumentParser) -> None:
    """Add the argument that names what the training left behind."""
    command.add_argument(
        "--trajectory",
        type=Path,
        metavar="PATH",
        help="what the training left behind: a recorded trajectory (.npz), a checkpoint that holds the optimizer's state (.pt, "
        ".ckpt, .keras), or a folder of checkpoints; default: none",
    )
