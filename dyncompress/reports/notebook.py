"""What a notebook shows of a value: fragments of HTML without scripts, made of the same pieces as the report."""

from __future__ import annotations

from typing import Any

from dyncompress.reports import markup
from dyncompress.reports.html import certificate_block, figures
from dyncompress.reports.table import layer_table, profile_table
from dyncompress.types import Certificate, OnnxFile, Plan, Profile


def fragment(value: Any) -> str:
    """The fragment of a file, plan, profile or certificate.

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
    """A row a unit: what was chosen, and why."""
    notes = markup.items(plan.notes)
    return f"<h3>Plan of {markup.text(plan.recipe)} for {markup.text(plan.target)}</h3>{markup.table(layer_table(plan))}{notes}"


def profile_html(profile: Profile) -> str:
    """A row a layer: measures with their standard errors, and the options."""
    title = f"<h3>Profile of {markup.text(profile.recipe)} for {markup.text(profile.target)}</h3>"
    return f"{title}{markup.table(profile_table(profile))}{markup.items(profile.notes)}"


SHOWN = {
    OnnxFile: file_html,
    Plan: plan_html,
    Profile: profile_html,
    Certificate: certificate_block,
}
