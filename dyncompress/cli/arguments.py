"""The command line's words: one parser a command, and the values of `--set`."""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from dyncompress.cli.exit_codes import TRACEBACK, table
from dyncompress.errors import InvalidRequest

EPILOG = (
    "MODEL is file.py:callable or package.module:callable; the callable returns a torch.nn.Module.  "
    "DATA is an .npz file with x (or one key for each input), y and groups, or file.py:callable that returns batches.  "
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
    _pareto(commands)
    _verify(commands)
    _bench(commands)
    _packing(commands)
    _lists(commands, "recipes", ("list", "show"), "list or show the recipes that come with the library")
    _lists(commands, "targets", ("list", "show", "check"), "list, show or check the hardware profiles that come with the library")
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


def free_axes(words: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """`--free-axes` words as input -> axes.

    Example:
        >>> free_axes(["x=2,3", "mask=1"])
        {'x': (2, 3), 'mask': (1,)}

    Raises:
        InvalidRequest: a word of another form.
    """
    found = {}
    for word in words:
        name, _, axes = word.partition("=")
        numbers = axes.split(",")
        if not name.strip() or not all(number.strip().isdecimal() and len(number) < 4 for number in numbers):
            raise InvalidRequest(f"--free-axes {word}: write it as INPUT=AXIS,AXIS, e.g. --free-axes x=2,3.")
        found[name.strip()] = tuple(int(number) for number in numbers)
    return found


def amounts(words: str) -> list[float]:
    """Numbers between commas.

    Example:
        >>> amounts("0.1, 0.2,30000"), amounts("")
        ([0.1, 0.2, 30000.0], [])

    Raises:
        InvalidRequest: one is no number.
    """
    try:
        return [float(word) for word in words.split(",") if word.strip()]
    except ValueError as error:
        raise InvalidRequest(f"--budgets {words}: write numbers with commas between them, e.g. --budgets 0.1,0.2,0.3.") from error


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
    command.add_argument("--json", action="store_true", help="print the result as one JSON object")
    command.add_argument("--quiet", action="store_true", help="show no progress on standard error")
    return command


def _asking(command: argparse.ArgumentParser, first: str = "") -> None:
    """What `compress` and `measure` share; `first` says whose recipe and target are taken where none is given."""
    command.add_argument("model", metavar="MODEL", help="the trained network, as file.py:callable or package.module:callable")
    command.add_argument("--recipe", metavar="NAME|FILE", help=f"what to do; default: {first}edge-int8")
    command.add_argument("--target", metavar="NAME|FILE", help=f"what the file will run on; default: {first}onnxruntime-x86-vnni")
    command.add_argument("--calibration", metavar="DATA", help="examples to run the model on; labels aren't read")
    command.add_argument(
        "--free-axes",
        action="append",
        default=[],
        metavar="INPUT=AXES",
        help="axes that take any length in the file, e.g. x=2,3 (the batch axis is 0); axes that differ in the data are free",
    )
    command.add_argument("--trajectory", type=Path, metavar="FILE", help="a recorded training trajectory (.npz)")
    _setting(command)


def _setting(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change one key of the recipe, e.g. budget.bytes=0.2"
    )


def _demo(commands: Commands) -> None:
    command = _command(
        commands, "demo", "train a small network on handwritten digits, compress it and certify the file; takes a minute"
    )
    command.add_argument(
        "--out", type=Path, default=Path("dyncompress-demo"), metavar="DIR", help="directory of the results; default: %(default)s"
    )


def _compress(commands: Commands) -> None:
    command = _command(commands, "compress", "compress a trained network into a small ONNX file, certified on held-out data")
    _asking(command, "the plan's, else ")
    command.add_argument(
        "--held-out", metavar="DATA", help="examples that nothing else uses, with labels; the file is certified on them"
    )
    command.add_argument(
        "--plan", type=Path, metavar="FILE", help="apply this plan, an edited one for example, instead of allocating one"
    )
    command.add_argument("--keep-float", action="store_true", help="also write the model's float32 file, model.float32.onnx")
    command.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="directory of the results; all of them are written, or none"
    )


def _measure(commands: Commands) -> None:
    command = _command(
        commands, "measure", "measure every layer and what each option would cost; the saved profile serves any number of budgets"
    )
    _asking(command)
    command.add_argument(
        "--out", type=Path, metavar="DIR", help="directory for profile.json; without it the table is only printed"
    )


def _probe(commands: Commands) -> None:
    command = _command(
        commands, "probe", "record a few hundred training steps from the final weights, where training itself was not recorded"
    )
    command.add_argument("model", metavar="MODEL", help="the trained network, as file.py:callable or package.module:callable")
    command.add_argument("--calibration", required=True, metavar="DATA", help="examples to train on")
    command.add_argument(
        "--labels",
        action="store_true",
        help="use the labels y of the data; without it labels are drawn from the model's own predictions",
    )
    command.add_argument(
        "--steps", type=whole(1, 10**6), default=500, metavar="N", help="number of steps, 200 to 1000; default: %(default)s"
    )
    command.add_argument(
        "--batch", type=whole(1, 10**6), default=64, metavar="N", help="examples in one step; default: %(default)s"
    )
    command.add_argument(
        "--rate", type=positive, metavar="R", help="learning rate; default: found by trial, so that the loss barely rises"
    )
    command.add_argument(
        "--seed", type=whole(0, 2**63 - 1), default=0, metavar="N", help="of everything random; default: %(default)s"
    )
    command.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FILE",
        help="file of the recorded trajectory, e.g. run.npz; give it to compress or measure as --trajectory",
    )


def _rank(commands: Commands) -> None:
    command = _command(commands, "rank", "order training runs by the generalization gap that measures predict for them")
    command.add_argument(
        "runs",
        type=Path,
        metavar="RUNS",
        help="CSV file with one row for each run. Columns: name; model (file.py:callable), trajectory (.npz) or both; weights, a "
        "file to load into the model; gap, where it is known; every other column is a hyper-parameter",
    )
    command.add_argument(
        "--measures", nargs="+", required=True, metavar="NAME", help="measures to order by, e.g. lifetime_sum esd_mid"
    )
    command.add_argument("--calibration", metavar="DATA", help="examples, for measures that run the network")
    command.add_argument(
        "--example", metavar="DATA", help="one batch that shows the inputs' form, for measures that read weights"
    )


def _plan(commands: Commands) -> None:
    command = _command(
        commands, "plan", "make a plan for a budget from a saved profile; the plan is a text file to read, edit and apply"
    )
    command.add_argument("profile", type=Path, metavar="PROFILE", help="profile.json, or the directory that holds it")
    command.add_argument(
        "--recipe", metavar="NAME|FILE", help="recipe whose budget and allocator are used; default: the profile's own"
    )
    _setting(command)
    command.add_argument(
        "--out", type=Path, metavar="FILE", help="file of the plan, e.g. plan.toml; without it the plan is only printed"
    )


def _pareto(commands: Commands) -> None:
    command = _command(commands, "pareto", "list and draw the plans of several budgets, from a saved profile")
    command.add_argument("profile", type=Path, metavar="PROFILE", help="profile.json, or the directory that holds it")
    command.add_argument(
        "--of",
        choices=("bytes", "macs", "seconds", "distortion"),
        default="bytes",
        help="cost that the budgets limit; default: %(default)s",
    )
    command.add_argument(
        "--budgets",
        default="",
        metavar="A,B,...",
        help="e.g. 0.1,0.2,0.3; a number below 1 is a fraction of the original's cost; default: twelve budgets",
    )
    command.add_argument("--recipe", metavar="NAME|FILE", help="recipe whose allocator is used; default: the profile's own")
    _setting(command)
    command.add_argument("--out", type=Path, metavar="FILE", help="file of the curve: .html (with the table), .svg or .csv")


def _verify(commands: Commands) -> None:
    command = _command(
        commands, "verify", "check the seal of a file and recompute its certificate; torch and onnx needn't be installed"
    )
    command.add_argument("file", type=Path, metavar="FILE", help="model.onnx, its container, or the directory that holds it")
    command.add_argument(
        "--certificate",
        type=Path,
        metavar="FILE",
        help="default: small.certificate.json beside small.onnx, else certificate.json",
    )
    command.add_argument(
        "--held-out", metavar="DATA", help="run the file on these examples again, instead of reading the stored losses"
    )


def _bench(commands: Commands) -> None:
    command = _command(commands, "bench", "measure how long a file takes in onnxruntime, with the target's session options")
    command.add_argument("file", type=Path, metavar="FILE", help="model.onnx, or the directory that holds it")
    command.add_argument("--against", type=Path, nargs="+", default=[], metavar="FILE", help="other files, timed in turn with it")
    command.add_argument("--data", required=True, metavar="DATA", help="examples to run the files on")
    command.add_argument(
        "--batch", type=whole(1, 10**6), default=1, metavar="N", help="examples in one run; default: %(default)s"
    )
    command.add_argument(
        "--rounds", type=whole(3, 10**6), default=50, metavar="N", help="runs of each file; default: %(default)s"
    )
    command.add_argument(
        "--threads", type=whole(1, 10**6), default=1, metavar="N", help="threads of one run; default: %(default)s"
    )
    command.add_argument(
        "--target", default="onnxruntime-x86-vnni", metavar="NAME|FILE", help="its session options are used; default: %(default)s"
    )


def _packing(commands: Commands) -> None:
    command = _command(commands, "pack", "put an ONNX file into a container, which takes the fewest bytes to ship")
    command.add_argument("file", type=Path, metavar="FILE", help="model.onnx, or the directory that holds it")
    command.add_argument("--out", type=Path, metavar="FILE", help="default: FILE with the ending .dync")
    command = _command(
        commands, "unpack", "take the ONNX file out of a container, byte for byte; torch and onnx needn't be installed"
    )
    command.add_argument("file", type=Path, metavar="FILE", help="small.dync")
    command.add_argument("--out", type=Path, metavar="FILE", help="default: FILE with the ending .onnx")


def _lists(commands: Commands, name: str, verbs: Sequence[str], summary: str) -> None:
    command = _command(commands, name, summary)
    command.add_argument("verb", choices=verbs, nargs="?", default="list", help="default: %(default)s")
    command.add_argument("names", nargs="*", metavar="NAME|FILE", help="names or files, for show and check")
