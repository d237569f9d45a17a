"""Present a certificate as text and as a JSON object."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from dyncompress.reports.plain import plain_json
from dyncompress.reports.table import number
from dyncompress.types import Certificate, Line


def errors_of(certificate: Certificate) -> tuple[int, int] | None:
    """Numbers of errors of the original and of the file on the held-out examples; None if the risk doesn't count errors."""
    counts = certificate.counts
    if certificate.risk != "zero_one" or not {"original_errors", "file_errors"} <= counts.keys():
        return None
    return counts["original_errors"], counts["file_errors"]


def certificate_text(certificate: Certificate) -> str:
    """The certificate as text: the statement, each line with its bound and share of delta, the counts, and the assumptions."""
    return "\n".join([f"certificate: {certificate.statement}{verdict(certificate)}", *certificate_details(certificate)])


def certificate_details(certificate: Certificate) -> list[str]:
    """The lines of text behind the statement: each line with its bound and share of delta, the counts, the assumptions."""
    lines = [
        f"  {line.quantity}: {number(line.point, 4)} observed, {bound_text(line)} ({line.method}, delta {number(line.delta)})"
        for line in certificate.lines
    ]
    counts = ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in certificate.counts.items())
    lines.append(f"  {sample_text(certificate)}; {counts}")
    return lines + [f"  assumes: {sentence}" for sentence in certificate.assumptions]


def vacuous(certificate: Certificate) -> bool:
    """Whether the certificate's bound is so weak that it promises nothing."""
    from dyncompress.certificates.wording import is_vacuous

    return is_vacuous(certificate)


def sample_text(certificate: Certificate) -> str:
    """The number of held-out examples, and of their groups if these are the independent units."""
    from dyncompress.certificates.wording import sample

    return sample(certificate)


def verdict(certificate: Certificate) -> str:
    """The remark behind a statement: the promise is kept or isn't, or nothing is promised; empty if none was asked for."""
    from dyncompress.certificates.wording import VACUOUS  # imported here, so that `unpack` needs no scipy

    if certificate.promise is not None and not certificate.kept:
        return " (PROMISE NOT KEPT)"
    if vacuous(certificate):
        return " (PROMISES NOTHING)" if VACUOUS in certificate.statement else f" (PROMISES NOTHING: {VACUOUS})"
    return "" if certificate.promise is None else " (promise kept)"


def bound_text(line: Line) -> str:
    """The certified bound of a quantity; the open end of a one-sided bound is the limit of its range, -1 or 0.

    Example:
        >>> bound_text(Line("risk increase", 0.0, -1.0, 0.004, 0.05, "")), bound_text(Line("risk", 0.1, 0.05, 0.2, 0.05, ""))
        ('at most 0.004', 'within [0.05, 0.2]')
    """
    if line.lower in (-1.0, 0.0):
        return f"at most {number(line.upper, 4)}"
    return f"within [{number(line.lower, 4)}, {number(line.upper, 4)}]"


def certificate_json(certificate: Certificate) -> dict[str, Any]:
    """The certificate as JSON, without its evidence (which the file `certificate.json` has) and with the key `vacuous`."""
    fields = {name: value for name, value in asdict(certificate).items() if name != "evidence"}
    return plain_json({**fields, "vacuous": vacuous(certificate)})
