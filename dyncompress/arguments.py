"""The command line's words: one parser a command, and the values of `--set`."""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from dyncompress.errors import InvalidRequest
from dyncompress.exit_codes import TRACEBACK, table

EPILOG = (
    "MODEL: file.py:callable or package.module:callable that returns a torch.nn.Module.  "
    "DATA: an .npz file (x or one key per input, y, groups) or file.py:callable that returns batches.  "
    f"Exit codes: {table()}.  "
    f"{TRACEBACK}=1 in the environment shows an error with all the calls that led to it."
)
Commands = Any  # what argparse gives for subparsers; its type is private


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """The command and its arguments.

    Raises:
        InvalidRequest: a word that no command knows, a missing one, or a word that no file name can be.
    """
    given = sys.argv[1:] if words is None else words
    if any("\0" in word for word in given):
        raise InvalidRequest("a word of the command line holds a null byte, which no file name can; leave it out.")
    empty = next((word for word in given if re.fullmatch("(--[a-z-]+=)?", word)), None)
    if empty is not None:
        what = f"{empty} has no value" if empty else "a word of the command line is empty"
        raise InvalidRequest(f"{what}, as where a variable of the shell isn't set; fill it in.")
    return parser().parse_args(given)


def parser() -> argparse.ArgumentParser:
    """All commands."""
    whole = argparse.ArgumentParser(
        prog="dyncompress",
        description="Compress a trained network into one small ONNX file, with reasons for every layer and a certificate.",
        epilog=EPILOG,
        allow_abbrev=False,
    )
    _refuse_in_one_sentence(whole)
    whole.add_argument("--version", action="store_true", help="print the version")
    commands = whole.add_subparsers(dest="command", metavar="COMMAND")
    _demo(commands)
    _compress(commands)
    _measure(commands)
    _probe(commands)
    _rank(commands)
    _plan(commands)
    _verify(commands)
    _bench(commands)
    _packing(commands)
    _lists(commands, "recipes", ("list", "show"), "the recipes that come with the library")
    _lists(commands, "targets", ("list", "show", "check"), "the hardware profiles that come with the library")
    return whole


def settings(words: Sequence[str]) -> dict[str, str]:
    """`--set` words as dotted key -> text; the recipe's reader reads the text.

    Example:
        >>> settings(["budget.bytes=0.2", "quantize.weight_bits=[4, 8]"])
        {'budget.bytes': '0.2', 'quantize.weight_bits': '[4, 8]'}

    Raises:
        InvalidRequest: a word without `=`.
    """
    found = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key.strip():
            raise InvalidRequest(f"--set {word}: write it as key=value, e.g. --set budget.bytes=0.2.")
        found[key.strip()] = text.strip()
    return found


def whole(least: int, most: int) -> Callable[[str], int]:
    """What reads an option's integer, from `least` to `most`.

    Example:
        >>> whole(1, 9)("7")
        7
    """

    def read(text: str) -> int:
        number = int(text) if re.fullmatch(r"[+-]?[0-9]{1,20}", text) else None
        if number is None or not least <= number <= most:
            raise argparse.ArgumentTypeError(f"'{text[:40]}' is given, and an integer from {least} to {most} is needed")
        return number

    return read


def positive(text: str) -> float:
    """An option's number: positive and finite.

    Raises:
        ArgumentTypeError: it isn't.
    """
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (number > 0 and math.isfinite(number)):
        raise argparse.ArgumentTypeError(f"'{text[:40]}' is given, and a positive number is needed")
    return number


def _refuse_in_one_sentence(parser: argparse.ArgumentParser) -> None:
    """Usage errors end like all others: one sentence, exit code 2."""

    def refuse(message: str) -> NoReturn:
        raise InvalidRequest(f"{message}; see `{parser.prog} --help`.")

    parser.error = refuse  # type: ignore[method-assign]


def _command(commands: Commands, name: str, summary: str) -> argparse.ArgumentParser:
    """A new command with what every command takes."""
    command = commands.add_parser(name, help=summary, description=summary, epilog=EPILOG, allow_abbrev=False)
    _refuse_in_one_sentence(command)
    command.add_argument("--json", action="store_true", help="print one JSON object, for machines")
    command.add_argument("--quiet", action="store_true", help="show no progress")
    return command


def _asking(command: argparse.ArgumentParser, first: str = "") -> None:
    """What `compress` and `measure` share; without the word, a recipe or target is what comes first, else the usual one."""
    command.add_argument("model", metavar="MODEL", help="file.py:callable or package.module:callable")
    command.add_argument("--recipe", metavar="NAME|FILE", help=f"default: {first}edge-int8")
    command.add_argument("--target", metavar="NAME|FILE", help=f"default: {first}onnxruntime-x86-vnni")
    command.add_argument("--calibration", metavar="DATA", help="examples to observe the model on")
    command.add_argument("--trajectory", type=Path, metavar="FILE", help="a recorded training trajectory (.npz)")
    _setting(command)


def _setting(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change one key of the recipe, e.g. budget.bytes=0.2"
    )


def _demo(commands: Commands) -> None:
    command = _command(commands, "demo", "train a small network on handwritten digits, compress and certify it: a minute")
    command.add_argument("--out", type=Path, default=Path("dyncompress-demo"), metavar="DIR", help="default: %(default)s")


def _compress(commands: Commands) -> None:
    command = _command(commands, "compress", "from a trained network to a small ONNX file, certified on held-out data")
    _asking(command, "the plan's, else ")
    command.add_argument("--held-out", metavar="DATA", help="examples nothing else sees, with labels: what certifies")
    command.add_argument("--plan", type=Path, metavar="FILE", help="apply this plan instead of allocating one")
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the files go, all of them or none")


def _measure(commands: Commands) -> None:
    command = _command(commands, "measure", "measure every layer, and save the profile that budgets are allocated from")
    _asking(command)
    command.add_argument("--out", type=Path, metavar="DIR", help="where profile.json goes; without it only the table is printed")


def _probe(commands: Commands) -> None:
    command = _command(commands, "probe", "no training was recorded: record a few hundred steps from the final weights instead")
    command.add_argument("model", metavar="MODEL", help="file.py:callable or package.module:callable")
    command.add_argument("--calibration", required=True, metavar="DATA", help="examples to take the steps on")
    command.add_argument("--labels", action="store_true", help="use the data's y; else labels are drawn from the model's answers")
    command.add_argument("--steps", type=whole(1, 10**6), default=500, metavar="N", help="200 to 1000; default: %(default)s")
    command.add_argument("--batch", type=whole(1, 10**6), default=64, metavar="N", help="examples a step; default: %(default)s")
    command.add_argument("--rate", type=positive, metavar="R", help="of the steps; default: one at which the loss barely rises")
    command.add_argument("--seed", type=whole(0, 2**63 - 1), default=0, metavar="N", help="default: %(default)s")
    command.add_argument("--out", type=Path, required=True, metavar="FILE", help="the trajectory, e.g. run.npz, for --trajectory")


def _rank(commands: Commands) -> None:
    command = _command(commands, "rank", "order training runs by the generalization gap that measures predict")
    command.add_argument(
        "runs",
        type=Path,
        metavar="RUNS",
        help="CSV, a run a row: name; model (file.py:callable) and/or trajectory (.npz); weights to load into the model; gap "
        "where it is known; every other column is a hyper-parameter",
    )
    command.add_argument("--measures", nargs="+", required=True, metavar="NAME", help="e.g. lifetime_sum esd_mid")
    command.add_argument("--calibration", metavar="DATA", help="examples, for measures that observe networks on data")
    command.add_argument("--example", metavar="DATA", help="one batch, for measures that read weights")


def _plan(commands: Commands) -> None:
    command = _command(commands, "plan", "allocate a budget from a saved profile: a text file to read, edit and apply")
    command.add_argument("profile", type=Path, metavar="PROFILE", help="profile.json, or the directory that holds it")
    command.add_argument("--recipe", metavar="NAME|FILE", help="whose budget and allocator; default: the profile's own")
    _setting(command)
    command.add_argument("--out", type=Path, metavar="FILE", help="where the plan goes, e.g. plan.toml; else it is only shown")


def _verify(commands: Commands) -> None:
    command = _command(commands, "verify", "check a file's seal and recompute its certificate; needs neither torch nor onnx")
    command.add_argument("file", type=Path, metavar="FILE", help="model.onnx, its container, or the directory that holds it")
    command.add_argument("--certificate", type=Path, metavar="FILE", help="default: certificate.json beside the file")
    command.add_argument("--held-out", metavar="DATA", help="recompute from these examples instead of the stored losses")


def _bench(commands: Commands) -> None:
    command = _command(commands, "bench", "time a file under onnxruntime with the target's session options")
    command.add_argument("file", type=Path, metavar="FILE", help="model.onnx, or the directory that holds it")
    command.add_argument("--against", type=Path, nargs="+", default=[], metavar="FILE", help="files to run in turn with it")
    command.add_argument("--data", required=True, metavar="DATA", help="examples to run")
    count = whole(1, 10**6)
    command.add_argument("--batch", type=count, default=1, metavar="N", help="examples in one run; default: %(default)s")
    command.add_argument("--rounds", type=whole(3, 10**6), default=50, metavar="N", help="of all files; default: %(default)s")
    command.add_argument("--threads", type=count, default=1, metavar="N", help="of one run; default: %(default)s")
    command.add_argument("--target", default="onnxruntime-x86-vnni", metavar="NAME|FILE", help="default: %(default)s")


def _packing(commands: Commands) -> None:
    command = _command(commands, "pack", "put an ONNX file into a container: as few bytes as it takes to ship it")
    command.add_argument("file", type=Path, metavar="FILE", help="model.onnx, or the directory that holds it")
    command.add_argument("--out", type=Path, metavar="FILE", help="default: FILE with the ending .dync")
    command = _command(commands, "unpack", "take the ONNX file out of a container, to the byte; needs neither torch nor onnx")
    command.add_argument("file", type=Path, metavar="FILE", help="small.dync")
    command.add_argument("--out", type=Path, metavar="FILE", help="default: FILE with the ending .onnx")


def _lists(commands: Commands, name: str, verbs: Sequence[str], summary: str) -> None:
    command = _command(commands, name, summary)
    command.add_argument("verb", choices=verbs, nargs="?", default="list", help="default: %(default)s")
    command.add_argument("names", nargs="*", metavar="NAME|FILE", help="for show and check")
