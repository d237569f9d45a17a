"""The arguments of the command line: one parser for each command."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from dyncompress.cli import comparison_command
from dyncompress.cli.exit_codes import TRACEBACK, table
from dyncompress.cli.option_values import integer, positive
from dyncompress.cli.shared_arguments import add_request, add_set
from dyncompress.deployment.conversion import CONVERSIONS
from dyncompress.errors import InvalidRequest

EPILOG = (
    "MODEL is file.py:callable or package.module:callable; the callable returns a torch.nn.Module.  "
    "DATA is an .npz file with the arrays x (or one for each input), y and groups, or file.py:callable that returns batches.  "
    f"Exit codes: {table()}.  "
    f"The environment variable {TRACEBACK}=1 shows errors with their traceback."
)
Commands = Any  # the subparsers of argparse, whose type is private


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """Parse the arguments of a command.

    Args:
        words: the arguments; None: those of the process.

    Raises:
        InvalidRequest: an argument is unknown, missing, empty, or holds a null byte; or a risk is given without held-out data.
    """
    words = sys.argv[1:] if words is None else words
    if any("\0" in word for word in words):
        raise InvalidRequest("a word of the command line holds a null byte, which no file name can; leave it out.")
    empty = next((word for word in words if re.fullmatch("(--[a-z-]+=)?", word)), None)
    if empty is not None:
        what = f"{empty} has no value" if empty else "a word of the command line is empty"
        raise InvalidRequest(f"{what}, as when a variable of the shell isn't set; fill it in.")
    return _with_risk(parser().parse_args(words))


def _with_risk(args: argparse.Namespace) -> argparse.Namespace:
    """The arguments with `--risk` as the last one of `--set`, so that it takes the place of the recipe's.

    Raises:
        InvalidRequest: a risk is given without held-out examples.
    """
    risk = getattr(args, "risk", None)
    if risk is None:
        return args
    if args.held_out is None:
        raise InvalidRequest(
            f"--risk {risk}: a risk is certified on held-out examples; give --held-out DATA, or leave --risk out."
        )
    args.set = [*args.set, f"certificate.risk={json.dumps(risk)}"]
    return args


def parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    whole = argparse.ArgumentParser(
        prog="dyncompress",
        description="Compress a trained network into a small ONNX file with a certificate and a reason for every choice.",
        epilog=EPILOG,
        allow_abbrev=False,
    )
    _raise_usage_errors(whole)
    whole.add_argument("--version", action="store_true", help="print the version")
    commands = whole.add_subparsers(dest="command", metavar="COMMAND")
    _add_demo(commands)
    _add_compress(commands)
    _add_measure(commands)
    _add_probe(commands)
    _add_rank(commands)
    _add_plan(commands)
    _add_pareto(commands)
    comparison_command.add_arguments(_add_command(commands, "compare", comparison_command.SUMMARY))
    _add_verify(commands)
    _add_bench(commands)
    _add_packing(commands)
    _add_convert(commands)
    _add_lists(commands, "recipes", ("list", "show"), "list or show the recipes that come with the library")
    _add_targets(commands)
    return whole


def _raise_usage_errors(parser: argparse.ArgumentParser) -> None:
    """Let a usage error raise `InvalidRequest`, which ends the command with one sentence and exit code 2."""

    def refuse(message: str) -> NoReturn:
        raise InvalidRequest(f"{message}; see `{parser.prog} --help`.")

    parser.error = refuse  # type: ignore[method-assign]


def _add_command(commands: Commands, name: str, summary: str) -> argparse.ArgumentParser:
    """Add a command with the options that all commands have."""
    command = commands.add_parser(name, help=summary, description=summary, epilog=EPILOG, allow_abbrev=False)
    _raise_usage_errors(command)
    command.add_argument("--json", action="store_true", help="print the result as one JSON object")
    command.add_argument("--quiet", action="store_true", help="don't show progress on standard error")
    return command


def _add_demo(commands: Commands) -> None:
    command = _add_command(
        commands, "demo", "train a small network on handwritten digits, compress it and certify the file; takes about a minute"
    )
    command.add_argument(
        "--out", type=Path, default=Path("dyncompress-demo"), metavar="DIR", help="directory of the results; default: %(default)s"
    )


def _add_compress(commands: Commands) -> None:
    command = _add_command(commands, "compress", "compress a trained network into a small ONNX file, certified on held-out data")
    add_request(command, "the plan's, else ", "default: none, for recipes that read only the weights if --held-out is given")
    command.add_argument(
        "--held-out",
        metavar="DATA",
        help="labelled examples that aren't used otherwise, on which the file is certified; default: none, no certificate",
    )
    command.add_argument(
        "--risk",
        metavar="NAME[:OPTION=VALUE,...]",
        help="loss whose increase is certified, with its options, e.g. detection:score=0.3,iou=0.5; without labels: agreement; "
        "default: the recipe's, zero_one in the recipes that come with the library",
    )
    command.add_argument(
        "--plan", type=Path, metavar="FILE", help="apply this plan, e.g. an edited one; default: allocate a plan"
    )
    command.add_argument("--keep-float", action="store_true", help="also write the original model as model.float32.onnx")
    command.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="directory for the results; if an error occurs, nothing is written"
    )


def _add_measure(commands: Commands) -> None:
    command = _add_command(
        commands,
        "measure",
        "measure every layer, and the costs and distortion of every option; plans for any budget are made from the result",
    )
    add_request(command, "", "one is enough for recipes that read only the weights")
    command.add_argument("--out", type=Path, metavar="DIR", help="directory for profile.json; default: the table is printed only")


def _add_probe(commands: Commands) -> None:
    command = _add_command(
        commands,
        "probe",
        "record a few hundred training steps from the final weights on, for a model whose training was not recorded",
    )
    command.add_argument("model", metavar="MODEL", help="the trained network, as file.py:callable or package.module:callable")
    command.add_argument("--calibration", required=True, metavar="DATA", help="examples to train on")
    command.add_argument(
        "--labels",
        action="store_true",
        help="use the labels y of the data; default: draw labels from the model's own predictions",
    )
    command.add_argument(
        "--steps",
        type=integer(1, 10**6),
        default=500,
        metavar="N",
        help="number of optimizer steps, best 200 to 1000; default: %(default)s",
    )
    command.add_argument(
        "--batch", type=integer(1, 10**6), default=64, metavar="N", help="examples in one step; default: %(default)s"
    )
    command.add_argument(
        "--rate",
        type=positive,
        metavar="R",
        help="learning rate; default: the rate at which the loss is expected to increase by 0.01 nats",
    )
    command.add_argument(
        "--seed",
        type=integer(0, 2**63 - 1),
        default=0,
        metavar="N",
        help="seed of everything that is drawn at random; default: %(default)s",
    )
    command.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FILE",
        help="file for the recorded trajectory, e.g. run.npz, which compress and measure read by --trajectory",
    )


def _add_rank(commands: Commands) -> None:
    command = _add_command(commands, "rank", "order training runs by the generalization gap that measures predict for them")
    command.add_argument(
        "runs",
        type=Path,
        metavar="RUNS",
        help="CSV file with one row for each run. Columns: name; model (file.py:callable), trajectory (.npz; with a model also a "
        "checkpoint with the optimizer's state, or a folder of them), or both; weights, a file to load into the model; gap, the "
        "generalization gap if it is known; every other column is a hyper-parameter; batch_size is read for checkpoints too",
    )
    command.add_argument(
        "--measures", nargs="+", required=True, metavar="NAME", help="measures to order by, e.g. lifetime_sum esd_mid"
    )
    command.add_argument("--calibration", metavar="DATA", help="examples, for measures that run the network; default: none")
    command.add_argument(
        "--example", metavar="DATA", help="one batch of inputs, for measures that read only the weights; default: none"
    )


def _add_plan(commands: Commands) -> None:
    command = _add_command(
        commands, "plan", "make a plan for a budget from a saved profile; the plan is a text file that can be edited and applied"
    )
    command.add_argument("profile", type=Path, metavar="PROFILE", help="profile.json, or the directory that holds it")
    command.add_argument(
        "--recipe", metavar="NAME|FILE", help="recipe whose budget and allocator are used; default: the profile's own"
    )
    add_set(command)
    command.add_argument(
        "--out", type=Path, metavar="FILE", help="file for the plan, e.g. plan.toml; default: the plan is printed only"
    )


def _add_pareto(commands: Commands) -> None:
    command = _add_command(commands, "pareto", "list and draw the plans for several budgets, from a saved profile")
    command.add_argument("profile", type=Path, metavar="PROFILE", help="profile.json, or the directory that holds it")
    command.add_argument(
        "--of",
        choices=("bytes", "macs", "seconds", "distortion"),
        default="bytes",
        help="quantity that the budgets limit (macs: multiply-accumulates of one example; seconds: of one run; distortion: in "
        "the profile's unit); default: %(default)s",
    )
    command.add_argument(
        "--budgets",
        default="",
        metavar="A,B,...",
        help="budgets, e.g. 0.1,0.2,0.3; for bytes, macs and seconds a number below 1 is a fraction of the original's; default: "
        "twelve budgets",
    )
    command.add_argument("--recipe", metavar="NAME|FILE", help="recipe whose allocator is used; default: the profile's own")
    add_set(command)
    command.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="file for the curve: .html (with the table), .svg or .csv; default: the table is printed only",
    )


def _add_verify(commands: Commands) -> None:
    command = _add_command(
        commands, "verify", "check the seal of a file and recompute its certificate; doesn't need torch or onnx"
    )
    command.add_argument("file", type=Path, metavar="FILE", help="model.onnx, its container, or the directory that holds it")
    command.add_argument(
        "--certificate",
        type=Path,
        metavar="FILE",
        help="the certificate; default: NAME.certificate.json beside NAME.onnx, else certificate.json",
    )
    command.add_argument(
        "--held-out",
        metavar="DATA",
        help="the held-out examples, on which the file is run again; default: the losses in the certificate are used",
    )


def _add_bench(commands: Commands) -> None:
    command = _add_command(commands, "bench", "measure how long a file takes in onnxruntime, with the target's session options")
    command.add_argument("file", type=Path, metavar="FILE", help="model.onnx, or the directory that holds it")
    command.add_argument(
        "--against",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="other files, which run alternately with it; default: none",
    )
    command.add_argument("--data", required=True, metavar="DATA", help="examples to run the files on")
    command.add_argument(
        "--batch", type=integer(1, 10**6), default=1, metavar="N", help="examples in one run; default: %(default)s"
    )
    command.add_argument(
        "--rounds", type=integer(3, 10**6), default=50, metavar="N", help="runs of each file; default: %(default)s"
    )
    command.add_argument(
        "--threads", type=integer(1, 10**6), default=1, metavar="N", help="threads of one run; default: %(default)s"
    )
    command.add_argument(
        "--target",
        default="onnxruntime-x86-vnni",
        metavar="NAME|FILE",
        help="hardware profile whose onnxruntime session options are used; default: %(default)s",
    )


def _add_packing(commands: Commands) -> None:
    command = _add_command(commands, "pack", "compress an ONNX file losslessly into a container, for shipping")
    command.add_argument("file", type=Path, metavar="FILE", help="model.onnx, or the directory that holds it")
    command.add_argument("--out", type=Path, metavar="FILE", help="the container; default: FILE with the suffix .dync")
    command = _add_command(commands, "unpack", "restore the ONNX file of a container, byte for byte; doesn't need torch or onnx")
    command.add_argument("file", type=Path, metavar="FILE", help="the container, e.g. small.dync")
    command.add_argument("--out", type=Path, metavar="FILE", help="the ONNX file; default: FILE with the suffix .onnx")


def _add_convert(commands: Commands) -> None:
    command = _add_command(commands, "convert", "write an ONNX file in another format, and compare the two on examples")
    command.add_argument("file", type=Path, metavar="FILE", help="model.onnx, its container, or the directory that holds it")
    formats = "; ".join(f"{name}: {conversion.summary}" for name, conversion in CONVERSIONS.items())
    command.add_argument("--to", required=True, choices=tuple(CONVERSIONS), help=formats)
    command.add_argument("--data", metavar="DATA", help="examples to compare the two files on; default: random ones")
    command.add_argument(
        "--out", type=Path, required=True, metavar="PATH", help="the file to write; for a format of several files, the directory"
    )


def _add_targets(commands: Commands) -> None:
    summary = (
        "list, show or check the hardware profiles that come with the library, or check an ONNX file against one, which ends "
        "with exit code 1 if the target refuses it"
    )
    command = _add_lists(commands, "targets", ("list", "show", "check"), summary)
    command.add_argument(
        "--target",
        metavar="NAME|FILE",
        help="for check MODEL.onnx: hardware profile that the file is checked against; default: onnxruntime-x86-vnni",
    )


def _add_lists(commands: Commands, name: str, verbs: Sequence[str], summary: str) -> argparse.ArgumentParser:
    command = _add_command(commands, name, summary)
    command.add_argument("verb", choices=verbs, nargs="?", default="list", help="what to do; default: %(default)s")
    command.add_argument(
        "names",
        nargs="*",
        metavar="NAME|FILE",
        help="names or files, for show and check; default for check: all",
    )
    return command
