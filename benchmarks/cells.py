"""A JSON file of cells. Every finished cell is written immediately, so that a script can be interrupted and continued."""

from __future__ import annotations

import argparse
import fnmatch
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dyncompress.errors import DyncompressError

Cell = dict[str, Any]


def read(path: Path) -> dict[str, Cell]:
    """The finished cells, by key."""
    return json.loads(path.read_text()) if path.exists() else {}


def put(path: Path, key: str, cell: Mapping[str, Any], order: Sequence[str]) -> None:
    """Add a cell. The file is read again first, so that cells of another process are kept, and it is replaced as a whole."""
    found = {**read(path), key: plain(dict(cell))}
    places = {name: place for place, name in enumerate(order)}
    ordered = dict(sorted(found.items(), key=lambda item: places.get(item[0], len(places))))
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(json.dumps(ordered, indent=1) + "\n")
    temporary.replace(path)


def plain(value: Any) -> Any:
    """A value for strict JSON: floats with four digits, NaN as null, infinities as strings."""
    if isinstance(value, Mapping):
        return {str(name): plain(part) for name, part in value.items()}
    if isinstance(value, tuple | list):
        return [plain(part) for part in value]
    if isinstance(value, str | bool | int) or value is None:
        return value
    number = float(value)
    if math.isnan(number):
        return None
    return float(f"{number:.4g}") if math.isfinite(number) else str(number)


def failed(error: Exception) -> Cell:
    """The cell of an exception: `refused` for an error of the library, otherwise `crash`."""
    if isinstance(error, DyncompressError):
        return {"verdict": "refused", "error": type(error).__name__, "sentence": str(error), "exit_code": error.exit_code}
    first = (str(error).strip().splitlines() or [""])[0].replace(str(Path.cwd()), ".")[:300]
    return {"verdict": "crash", "error": type(error).__name__, "sentence": first, "exit_code": 1}


def run(keys: Sequence[str], path: Path, made: Callable[[str], Cell], told: Callable[[str, Cell], str], args: Any) -> None:
    """Compute the requested cells that are missing, one by one.

    Args:
        keys: the keys of all cells, in order.
        path: the JSON file.
        made: computes a cell.
        told: returns the line that is printed for a cell.
        args: the parsed `arguments`.
    """
    for key in keys:
        if not fnmatch.fnmatch(key, args.only) or (not args.again and key in read(path)):
            continue
        put(path, key, made(key), keys)
        print(told(key, read(path)[key]), flush=True)


def arguments(text: str | None) -> argparse.ArgumentParser:
    """The arguments that every script of cells accepts."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="*", metavar="PATTERN", help="cells whose key matches, such as 'digits* | packed'")
    parser.add_argument("--again", action="store_true", help="compute existing cells again")
    parser.add_argument("--table", action="store_true", help="print the Markdown table of the JSON file and compute nothing")
    return parser


def script(
    text: str | None,
    keys: Sequence[str],
    path: Path,
    made: Callable[[str], Cell],
    told: Callable[[str, Cell], str],
    table: Callable[[Mapping[str, Cell]], str],
) -> None:
    """Compute the missing cells that the command line selects, and print the table.

    Args:
        text: the help text.
        keys, path, made, told: as for `run`.
        table: returns the Markdown table of the finished cells.
    """
    args = arguments(text).parse_args()
    if not args.table:
        run(keys, path, made, told, args)
    print(table(read(path)))
