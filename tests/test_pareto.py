"""One call, several budgets."""

from __future__ import annotations

import dyncompress as dc
from tests import tiny


def test_pareto_lists_what_nothing_else_beats() -> None:
    profile = tiny.profile("narrow")
    budgets = [*(dc.Budget(macs=share) for share in (0.9, 0.8, 0.8, 0.6)), {"bytes": 300.0}]
    found = dc.pareto(profile, budgets)
    assert 2 <= len(found) <= 3  # the twin and the impossible are gone
    for one in found:
        assert one.macs <= (one.budget.macs or 0) * profile.macs * (1 + 1e-9)
        assert not any(o.macs < one.macs and o.distortion < one.distortion for o in found)
