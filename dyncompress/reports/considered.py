"""Draw the plans that were considered: divergence against bytes, predicted as a curve, of built files as points."""

from __future__ import annotations

import math

from dyncompress.reports.markup import section, table
from dyncompress.reports.plot import Series, legend, plot
from dyncompress.reports.table import Table, number
from dyncompress.types import Candidate, OnnxFile, Profile

NOT_COMPUTED = "not computed"
PREDICTED = 16  # plans on the curve

HOW = (
    "Each point is a file that was built: the bytes that ship (without a seal), and the divergence of its outputs from the "
    "original's, measured on calibration data. The curve is predicted by the profile for other budgets: bytes, and the sum of "
    "the layers' distortions. A point far above the curve has a larger divergence than predicted."
)


def plans_sections(file: OnnxFile, profile: Profile | None) -> list[str]:
    """The section with a drawing and a table of the plans; empty if there is only one plan."""
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
    """(bytes, distortion) of the best plans of a profile, without the bytes reserved for a seal; empty without a profile."""
    if profile is None or profile.unit == NOT_COMPUTED:
        return ()
    from dyncompress.allocation.cost import arrays
    from dyncompress.allocation.exclusive import join_blocks
    from dyncompress.allocation.hull import hull
    from dyncompress.types import SEAL_BYTES

    cost, distortion = arrays(join_blocks(profile.table), ["bytes"])
    fixed = profile.fixed_bytes - SEAL_BYTES
    return tuple((fixed + bytes_, total) for bytes_, total in hull(cost[0], distortion, PREDICTED))


def _measured(file: OnnxFile, *, chosen: bool) -> tuple[tuple[float, float], ...]:
    """(bytes, measured divergence) of the files that were built: of the one that was chosen, or of the others."""
    if chosen and not file.candidates:
        return ((len(file.shipped), file.parity.divergence),)
    return tuple((one.bytes, one.divergence) for one in file.candidates if one.chosen == chosen)


def _table(candidates: tuple[Candidate, ...]) -> str:
    """An HTML table of the files that were built."""
    header = ("file", "bytes", "predicted distortion", "measured divergence")
    rows = tuple(
        ("this one" if one.chosen else str(i), f"{one.bytes:,}", number(one.distortion), _measured_text(one.divergence))
        for i, one in enumerate(candidates, 1)
    )
    return table(Table(header, rows, frozenset(header[1:])))


def _measured_text(value: float) -> str:
    return "–" if math.isnan(value) else number(value)
