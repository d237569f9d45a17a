"""The plans that were considered, drawn as size against divergence: predicted ones as a curve, built files as points."""

from __future__ import annotations

import math

from dyncompress.reports.markup import section, table
from dyncompress.reports.plot import Series, legend, plot
from dyncompress.reports.table import Table, number
from dyncompress.types import Candidate, OnnxFile, Profile

NOT_COMPUTED = "not computed"
PREDICTED = 16  # plans on the curve

HOW = (
    "Every file that was built on the way, by the bytes that ship (without a seal) and the divergence of its output from the "
    "original's, measured on calibration data. The curve is what the profile predicts for other budgets: bytes against the sum "
    "of the layers' distortions. A point far above the curve costs more than was predicted."
)


def plans_sections(file: OnnxFile, profile: Profile | None) -> list[str]:
    """A drawing and a table; nothing where there is one plan alone."""
    series = [
        Series("predicted from the profile", predicted(profile), soft=True, line=True, radius=2.5),
        Series("built and measured", _measured(file, chosen=False), hollow=True),
        Series("this file", _measured(file, chosen=True), radius=5.5),
    ]
    if sum(len(one.finite()) for one in series) < 2:
        return []
    unit = "" if profile is None or profile.unit == NOT_COMPUTED else f", {profile.unit}"
    labels = ("bytes", f"divergence{unit}")
    drawn = plot(series, "Divergence of the plans considered against their bytes", labels)
    built = _table(file.candidates) if len(file.candidates) > 1 else ""
    return [section("Plans considered", HOW, f"{legend(series)}{drawn}{built}")]


def predicted(profile: Profile | None) -> tuple[tuple[float, float], ...]:
    """Bytes, without those reserved for a seal, and distortion of the best plans of the profile; empty where there is none."""
    if profile is None or profile.unit == NOT_COMPUTED:
        return ()
    from dyncompress.allocation.cost import arrays
    from dyncompress.allocation.exclusive import joined
    from dyncompress.allocation.hull import hull
    from dyncompress.types import SEAL_BYTES

    cost, distortion = arrays(joined(profile.table), ["bytes"])
    fixed = profile.fixed_bytes - SEAL_BYTES
    return tuple((fixed + bytes_, total) for bytes_, total in hull(cost[0], distortion, PREDICTED))


def _measured(file: OnnxFile, *, chosen: bool) -> tuple[tuple[float, float], ...]:
    """Bytes and measured divergence of the files that were built."""
    if chosen and not file.candidates:
        return ((len(file.shipped), file.parity.divergence),)
    return tuple((one.bytes, one.divergence) for one in file.candidates if one.chosen == chosen)


def _table(candidates: tuple[Candidate, ...]) -> str:
    header = ("file", "bytes", "predicted distortion", "measured divergence")
    rows = tuple(
        ("this one" if one.chosen else str(i), f"{one.bytes:,}", number(one.distortion), _measured_text(one.divergence))
        for i, one in enumerate(candidates, 1)
    )
    return table(Table(header, rows, frozenset(header[1:])))


def _measured_text(value: float) -> str:
    return "–" if math.isnan(value) else number(value)
