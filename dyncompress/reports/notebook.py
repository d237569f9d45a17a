"""Present values in a notebook: fragments of HTML without scripts, built from the parts of the report."""

from __future__ import annotations

from typing import Any

from dyncompress.reports import markup
from dyncompress.reports.comparison import comparison_html
from dyncompress.reports.html import certificate_block, figures
from dyncompress.reports.pareto import pareto_html
from dyncompress.reports.table import layer_table, profile_table
from dyncompress.types import Certificate, OnnxFile, Plan, Profile
from dyncompress.types.comparison import Comparison
from dyncompress.types.pareto import ParetoList


def fragment(value: Any) -> str:
    """The HTML of an `OnnxFile`, `Plan`, `Profile`, `Certificate`, `ParetoList` or `Comparison`.

    Example:
        >>> "<table>" in fragment(Plan({}, {}, {}, {}, 0.0, 0.0, "r", "t", "", {}, {}))
        True
    """
    return SHOWN[type(value)](value)


def file_html(file: OnnxFile) -> str:
    """Bytes, accuracy, time and certificate."""
    title = f"<h3>{markup.text(file.plan.recipe)} for {markup.text(file.target.name)}</h3>"
    return f"{title}{figures(file)}{certificate_block(file.certificate)}"


def plan_html(plan: Plan) -> str:
    """A table with a row for each unit: the choice and its reason."""
    notes = markup.items(plan.notes)
    return f"<h3>Plan of {markup.text(plan.recipe)} for {markup.text(plan.target)}</h3>{markup.table(layer_table(plan))}{notes}"


def profile_html(profile: Profile) -> str:
    """A table with a row for each layer: measures with their standard errors, and the options."""
    title = f"<h3>Profile of {markup.text(profile.recipe)} for {markup.text(profile.target)}</h3>"
    return f"{title}{markup.table(profile_table(profile))}{markup.items(profile.notes)}"


SHOWN = {
    OnnxFile: file_html,
    Plan: plan_html,
    Profile: profile_html,
    Certificate: certificate_block,
    ParetoList: pareto_html,
    Comparison: comparison_html,
}
