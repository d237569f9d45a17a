"""The CSV table of training runs that `rank` reads: one row for each run, with its files, gap and hyper-parameters."""

from __future__ import annotations

import csv
import difflib
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dyncompress.cli.sources import load_model
from dyncompress.errors import InvalidRequest
from dyncompress.recipe.text_files import is_file, read_text

NAME, MODEL, WEIGHTS, TRAJECTORY, GAP = OWN = ("name", "model", "weights", "trajectory", "gap")
# What torch and safetensors raise when a file has another format.
UNREADABLE = (RuntimeError, EOFError, OSError, ValueError, LookupError, AttributeError, TypeError, ArithmeticError, MemoryError)
ALIKE = 0.75  # similarity of a column's name to one of ours from which it counts as a typing error


@dataclass(frozen=True)
class RunTable:
    """The runs of a table. A model is loaded when its run is read, and not kept.

    Attributes:
        rows: name of a run -> column -> text; empty cells are absent.
        folder: of the table, to which paths in it are relative.
        gaps: name -> generalization gap, of the runs whose gap is known; None: the table has no such column.
        hyperparameters: name -> hyper-parameter -> number or text; None: the table has none.
    """

    rows: Mapping[str, Mapping[str, str]]
    folder: Path
    gaps: Mapping[str, float] | None
    hyperparameters: Mapping[str, Mapping[str, float | str]] | None

    def keys(self) -> list[str]:
        """The names of the runs, in the order of the table."""
        return list(self.rows)

    def __getitem__(self, name: str) -> tuple[Any, Path | None]:
        """The network and the path of what the training of a run left behind; each is None if the row doesn't name it.

        Raises:
            InvalidRequest: the model or its weights can't be loaded.
        """
        row = self.rows[name]
        return self._module(name, row), self.folder / row[TRAJECTORY] if TRAJECTORY in row else None

    def model(self, name: str) -> str:
        """The model of a run as `load_model` reads it, with the file's path relative to the working directory."""
        place, _, function = self.rows[name][MODEL].rpartition(":")
        return f"{self.folder / place}:{function}" if place.endswith(".py") else self.rows[name][MODEL]

    def _module(self, name: str, row: Mapping[str, str]) -> Any:
        """Load the network and its weights."""
        if MODEL not in row:
            return None
        module = load_model(self.model(name))
        if WEIGHTS not in row:
            return module
        try:
            module.load_state_dict(_part_that_fits(_state(self.folder / row[WEIGHTS]), module))
        except (RuntimeError, AttributeError, TypeError) as error:
            reason = " ".join(str(error).split())
            raise InvalidRequest(f"run '{name}': weights '{row[WEIGHTS]}' don't fit its model: {reason[:300]}") from error
        return module


def read_runs(path: str | Path) -> RunTable:
    """Read the table.

    Args:
        path: of a CSV file with a header. `name` and `model` (`file.py:callable`) or `trajectory` (`.npz`) are needed; beside a
            model, the trajectory may be a checkpoint that holds the optimizer's state, or a folder of checkpoints. `weights`
            (`.safetensors`, or a torch file of tensors, or of dictionaries of them such as that checkpoint) are loaded into the
            model; `gap` may be empty; every other column is a hyper-parameter.

    Raises:
        InvalidRequest: no such file, no such columns, a name twice, a checkpoint without a model, or a gap that isn't a number.
    """
    path = Path(path)
    text = read_text(path, f"runs '{path}'")
    try:
        lines = list(csv.reader(io.StringIO(text), skipinitialspace=True))
    except csv.Error as error:
        raise InvalidRequest(f"runs '{path}': it can't be read as CSV ({error}); give a table of runs.") from error
    header = [column.strip() for column in (lines[0] if lines else ())]
    _check_header(path, header)
    rows: dict[str, dict[str, str]] = {}
    for number, row in enumerate(lines[1:], start=2):
        if not any(cell.strip() for cell in row):
            continue
        if len(row) != len(header):
            raise InvalidRequest(f"runs '{path}' line {number}: {len(row)} cells under {len(header)} columns; one a column.")
        cells = {column: cell.strip() for column, cell in zip(header, row, strict=True) if cell.strip()}
        name = cells.get(NAME, "")
        if not name or name in rows:
            why = f"name '{name}' stands there twice" if name else "the name is empty"
            raise InvalidRequest(f"runs '{path}' line {number}: {why}; give every run one of its own.")
        _check_model(cells, f"runs '{path}' line {number}: run '{name}'")
        rows[name] = cells
    keys = [column for column in header if column not in OWN]
    for name, cells in rows.items():
        if missing := [key for key in keys if key not in cells]:
            raise InvalidRequest(f"runs '{path}': '{missing[0]}' of run '{name}' is empty; fill it in, or drop the column.")
    gaps = {name: _gap(path, name, cells[GAP]) for name, cells in rows.items() if GAP in cells} if GAP in header else None
    columns = {key: _values([cells[key] for cells in rows.values()]) for key in keys}
    settings = {name: {key: columns[key][i] for key in keys} for i, name in enumerate(rows)} if keys else None
    return RunTable(rows, path.parent, gaps, settings)


def _check_header(path: Path, header: Sequence[str]) -> None:
    """Refuse a header that lacks a required column, or in which a column's name looks like a typing error."""
    if len(set(header)) < len(header) or "" in header:
        raise InvalidRequest(f"runs '{path}': a column has no name, or two have the same; name each once.")
    for column in header:
        close = difflib.get_close_matches(column.lower(), [own for own in OWN if own not in header], 1, cutoff=ALIKE)
        if column not in OWN and close:
            raise InvalidRequest(f"runs '{path}': column '{column}' would be a hyper-parameter; did you mean '{close[0]}'?")
    if NAME not in header or not {MODEL, TRAJECTORY} & set(header):
        missing = NAME if NAME not in header else f"{MODEL} or {TRAJECTORY}"
        raise InvalidRequest(f"runs '{path}': there is no column {missing}; its columns are {', '.join(header) or 'none'}.")


def _check_model(cells: Mapping[str, str], where: str) -> None:
    """Refuse a row without a model that can't do without."""
    if MODEL in cells:
        return
    if TRAJECTORY not in cells:
        raise InvalidRequest(f"{where} has neither model nor trajectory; give one of them.")
    if WEIGHTS in cells:
        raise InvalidRequest(f"{where} has weights and no model to load them into.")
    if Path(cells[TRAJECTORY]).suffix != ".npz":
        raise InvalidRequest(
            f"{where} has '{cells[TRAJECTORY]}' and no model; only a trajectory (.npz) is read without its model, so name it."
        )


def _gap(path: Path, name: str, text: str) -> float:
    """The number in a cell of the column `gap`."""
    number = _number(text)
    if number is None:
        raise InvalidRequest(f"runs '{path}': the gap of run '{name}' is '{text}'; write a number, or leave it empty.")
    return number


def _values(column: Sequence[str]) -> list[float | str]:
    """The cells of a column as numbers if all of them are numbers, else as text."""
    numbers = [_number(text) for text in column]
    return list(column) if None in numbers else [number for number in numbers if number is not None]


def _number(text: str) -> float | None:
    """The finite number that a text stands for, or None."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _part_that_fits(state: Mapping[str, Any], module: Any) -> Mapping[str, Any]:
    """The part of a checkpoint that holds the module's weights: a dictionary in it with their names, else all of it."""
    names = module.state_dict().keys()
    return next((part for part in state.values() if isinstance(part, Mapping) and part.keys() == names), state)


def _state(path: Path) -> Mapping[str, Any]:
    """Load the tensors of a file, without executing code that a pickle may contain."""
    if not is_file(path, f"weights '{path}'"):
        raise InvalidRequest(f"weights '{path}': there is no such file.")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except (SafetensorError, *UNREADABLE) as error:
            raise InvalidRequest(f"weights '{path}': it is no safetensors file ({error}).") from error
    import pickle

    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, *UNREADABLE) as error:
        raise InvalidRequest(f"weights '{path}': it holds more than tensors, or nothing; save module.state_dict().") from error
    if not isinstance(state, Mapping):
        raise InvalidRequest(f"weights '{path}': it holds a {type(state).__name__}; save module.state_dict().")
    return state
