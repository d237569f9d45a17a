"""Writes a certificate as JSON text and reads it back."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any, NoReturn

from dyncompress.errors import InvalidRequest
from dyncompress.types import Certificate, Line

SCHEMA = "dyncompress-certificate/1"
LARGEST, DIGITS = 1e300, 18
_TEXTS = ("statement", "kind", "valid_as", "risk")
_TABLES = ("counts", "selection", "environment", "digests", "context", "evidence")


def to_json(certificate: Certificate) -> str:
    """The certificate as JSON text; `from_json` reads the same certificate back.

    Raises:
        InvalidRequest: `context` or `selection` hold values that aren't plain data.
    """
    try:
        return json.dumps({"schema": SCHEMA} | dataclasses.asdict(certificate), indent=1, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"the certificate can't be written ({error}); put plain text and finite numbers into it.") from error


def from_json(text: str) -> Certificate:
    """The certificate that `text` holds.

    Raises:
        InvalidRequest: the text is incomplete, isn't JSON, holds a key twice, holds a number that isn't finite, or isn't a
            certificate of this version.
    """
    table = read_json(text, "the certificate")
    if not isinstance(table, dict) or table.get("schema") != SCHEMA:
        schema = table.get("schema") if isinstance(table, dict) else type(table).__name__
        raise InvalidRequest(f"this is no certificate: its schema is {schema!r}, not '{SCHEMA}'; give certificate.json.")
    names = {entry.name for entry in dataclasses.fields(Certificate)}
    missing, unknown = sorted(names - set(table)), sorted(set(table) - names - {"schema"})
    if missing or unknown:
        raise InvalidRequest(f"the certificate lacks the keys {missing} and has the unknown {unknown}; copy the file again.")
    _check_types(table)
    lines = tuple(_line(entry) for entry in table["lines"])
    values = {name: table[name] for name in names} | {"lines": lines, "assumptions": tuple(table["assumptions"])}
    return Certificate(**values)


def read_json(text: str, what: str) -> Any:
    """The value of JSON text in which no object holds a key twice and every number is finite.

    Of two equal keys, Python's reader takes the last one and others take the first, so such a text has two meanings.

    Args:
        text: the JSON text.
        what: what error messages call it, e.g. `the certificate`.

    Raises:
        InvalidRequest: it isn't such text.
    """

    def without_repeated_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        """The object, if no key occurs twice in it."""
        keys = [key for key, _ in pairs]
        repeated = next((key for i, key in enumerate(keys) if key in keys[:i]), None)
        if repeated is not None:
            raise InvalidRequest(f"{what} holds the key '{repeated}' twice in one object; get it again from its source.")
        return dict(pairs)

    def refuse(number: str) -> NoReturn:
        needed = "finite numbers (integers of at most 18 digits)"
        raise InvalidRequest(f"{what} holds the number {number}, and only {needed} are read; get it again from its source.")

    def finite(number: str) -> float:
        return float(number) if math.isfinite(float(number)) else refuse(number)

    def short(digits: str) -> int:
        return int(digits) if len(digits) <= DIGITS else refuse(f"{digits[:DIGITS]}...")

    try:
        value = json.loads(
            text, object_pairs_hook=without_repeated_keys, parse_constant=refuse, parse_float=finite, parse_int=short
        )
        if "\\ud" in text.lower():  # an unpaired surrogate can't be encoded as UTF-8
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidRequest(f"{what} isn't whole JSON ({error}); copy the file again.") from error


def _check_types(table: dict[str, Any]) -> None:
    """Check the type of every value.

    Raises:
        InvalidRequest: a value has a wrong type; the message names its key.
    """
    wanted = (
        dict.fromkeys(_TEXTS, str) | dict.fromkeys(_TABLES, dict) | {"lines": list, "assumptions": list, "kept": bool, "n": int}
    )
    wrong = [key for key, kind in wanted.items() if not isinstance(table[key], kind)]
    if not (_is_number(table["n"]) and table["n"] > 0):
        wrong.append("n")
    if not _is_number(table["delta"]):
        wrong.append("delta")
    if table["promise"] is not None and not _is_number(table["promise"]):
        wrong.append("promise")
    if isinstance(table["evidence"], dict):
        wrong += [f"evidence.{key}" for key, text in table["evidence"].items() if not isinstance(text, str)]
    if wrong:
        raise InvalidRequest(f"the certificate has values of a wrong kind at {', '.join(wrong)}; copy the file again.")


def _line(entry: Any) -> Line:
    """The line of a certificate that a JSON object holds.

    Raises:
        InvalidRequest: keys are missing or unknown, or a value has a wrong type.
    """
    kinds = {field.name: field.type for field in dataclasses.fields(Line)}
    if not isinstance(entry, dict) or set(entry) != set(kinds):
        raise InvalidRequest(f"a line of the certificate has other keys than {', '.join(kinds)}; copy the file again.")
    if any(not (isinstance(entry[key], str) if kind == "str" else _is_number(entry[key])) for key, kind in kinds.items()):
        raise InvalidRequest(f"the line '{entry['quantity']}' of the certificate holds a wrong value; copy the file again.")
    return Line(**entry)


def _is_number(value: Any) -> bool:
    """Whether the value is a number that a float can hold; JSON's integers have any length."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < LARGEST
