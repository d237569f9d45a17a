"""A fitted prior as plain values for a file: numbers with their names and six digits, and a check of every value when read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dyncompress.allocation.prior import Prior
from dyncompress.errors import InvalidRequest

KEYS = ("networks", "intercept", "intercept_variance", "spread", "coefficients", "covariance")


def prior_to_table(prior: Prior) -> dict[str, Any]:
    """The prior as plain values for TOML or JSON; the keys of `coefficients` are the measures, in the order of the covariance.

    Example:
        >>> prior = Prior(("hill",), 1.0, 9.0, np.array([2 / 3]), np.array([[0.1]]), 1.0, ("a", "b"))
        >>> prior_to_table(prior)["coefficients"], prior_to_table(prior)["covariance"]
        ({'hill': 0.666667}, {'hill': [0.1]})
    """
    return {
        "networks": list(prior.networks),
        "intercept": _short(prior.intercept),
        "intercept_variance": _short(prior.intercept_variance),
        "spread": _short(prior.spread),
        "coefficients": {name: _short(value) for name, value in zip(prior.measures, prior.coefficients, strict=True)},
        "covariance": {name: [_short(v) for v in row] for name, row in zip(prior.measures, prior.covariance, strict=True)},
    }


def prior_from_table(table: Mapping[str, Any], where: str) -> Prior:
    """The prior that `prior_to_table` turned into plain values.

    Args:
        table: the values read from a file.
        where: the beginning of every error message, e.g. the file's name.

    Raises:
        InvalidRequest: a key is missing or unknown, a value isn't a number, or the numbers aren't a valid prior (see `Prior`).
    """
    for key in (*KEYS, *table):
        if key not in KEYS:
            raise InvalidRequest(f"{where}: unknown key '{key}'; a prior has {', '.join(KEYS)}.")
        if key not in table:
            raise InvalidRequest(f"{where}: the key '{key}' is missing; a prior has {', '.join(KEYS)}.")
    coefficients, covariance = (_named(table[key], f"{where}.{key}") for key in ("coefficients", "covariance"))
    measures, networks = tuple(coefficients), table["networks"]
    if tuple(covariance) != measures:
        raise InvalidRequest(f"{where}.covariance: rows {list(covariance)}; rows {list(measures)} are needed, in this order.")
    if not isinstance(networks, Sequence) or isinstance(networks, str) or not all(isinstance(name, str) for name in networks):
        raise InvalidRequest(f"{where}.networks is {networks!r}; a list of names is needed.")
    for name, row in covariance.items():
        if not isinstance(row, Sequence) or isinstance(row, str) or len(row) != len(measures):
            raise InvalidRequest(
                f"{where}.covariance.{name} is {row!r}; {len(measures)} numbers are needed, one for each measure."
            )
    rows = [[_number(value, f"{where}.covariance.{name}") for value in row] for name, row in covariance.items()]
    means = [_number(value, f"{where}.coefficients.{name}") for name, value in coefficients.items()]
    level, width, spread = (_number(table[key], f"{where}.{key}") for key in ("intercept", "intercept_variance", "spread"))
    square = np.array(rows, dtype=np.float64).reshape(len(measures), len(measures))
    try:
        return Prior(measures, level, width, np.array(means, dtype=np.float64), square, spread, tuple(networks))
    except InvalidRequest as error:
        raise InvalidRequest(f"{where}: {error}") from None


def _short(value: float) -> float:
    """The value with six significant digits."""
    return float(f"{value:.6g}")


def _named(value: object, where: str) -> Mapping[str, Any]:
    """The value, if it is a table."""
    if not isinstance(value, Mapping):
        raise InvalidRequest(f"{where} is {value!r}; a table with one line for each measure is needed.")
    return value


def _number(value: object, where: str) -> float:
    """The value as a float, if it is a number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidRequest(f"{where} is {value!r}; a number is needed.")
    return float(value)
