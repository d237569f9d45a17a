"""Tables of layers as text: measures, choices and reasons. `plain` prints a table, `markup.table` makes HTML of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dyncompress.types import STRUCTURE, UNMEASURED, Choice, Estimate, Layer, Option, Plan, Profile


@dataclass(frozen=True)
class Table:
    """A header and rows of text.

    Attributes:
        header: column names.
        rows: a tuple of cells for each row, as long as the header.
        numeric: names of the columns that are aligned to the right.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: frozenset[str] = frozenset()

    def plain(self) -> str:
        """The table as text with aligned columns, for a terminal.

        Example:
            >>> print(Table(("layer", "bits"), (("stem", "8"), ("head.fc", "32")), frozenset({"bits"})).plain())
            layer    bits
            stem        8
            head.fc    32
        """
        widths = [max(len(cell) for cell in column) for column in zip(self.header, *self.rows, strict=True)]
        lines = []
        for row in (self.header, *self.rows):
            cells = (
                cell.rjust(width) if name in self.numeric else cell.ljust(width)
                for name, cell, width in zip(self.header, row, widths, strict=True)
            )
            lines.append("  ".join(cells).rstrip())
        return "\n".join(lines)


def number(value: float, digits: int = 3) -> str:
    """A number with few digits; a dash for nan.

    Example:
        >>> number(0.034567), number(1234567.0), number(float("nan"))
        ('0.0346', '1.23e+06', '–')
    """
    return "–" if math.isnan(value) else f"{value:.{digits}g}"


def percent(fraction: float, digits: int = 3) -> str:
    """A fraction as a percentage; a dash for nan.

    Example:
        >>> percent(0.1234), percent(0.0), percent(float("nan"))
        ('12.3 %', '0 %', '–')
    """
    return "–" if math.isnan(fraction) else f"{100 * fraction:.{digits}g} %"


def estimate_text(estimate: Estimate) -> str:
    """The value with its standard error, and a question mark if the estimate's assumptions don't hold.

    Example:
        >>> estimate_text(Estimate(2.5, 0.25, 100)), estimate_text(Estimate(2.5, float("nan"), 4, valid=False))
        ('2.5 ± 0.25', '2.5 ?')
        >>> estimate_text(Estimate(11.25, 0.0, 64))  # computed, not estimated
        '11.2'
    """
    stderr = "" if math.isnan(estimate.stderr) or estimate.stderr == 0 else f" ± {number(estimate.stderr, 2)}"
    return f"{number(estimate.value)}{stderr}" + ("" if estimate.valid else " ?")


def stage_name(stage: str) -> str:
    """The name of a stage of compression in reports.

    Example:
        >>> stage_name("teach"), stage_name("prune")
        ('distil weights', 'prune')
    """
    return {"teach": "distil weights", "distil": "distil gains and biases"}.get(stage, stage)


def choices(plan: Plan) -> dict[str, Choice]:
    """Unit -> the realised choice, or the planned one if the plan hasn't been applied."""
    return {unit: plan.realised.get(unit, asked) for unit, asked in plan.asked.items()}


def layer_table(plan: Plan, layers: Sequence[Layer] = (), estimates: Mapping[str, Mapping[str, Estimate]] | None = None) -> Table:
    """A table with a row for each unit, then for each layer that is left alone: shape, measures, choice, reason.

    Args:
        plan: applied or not.
        layers: of the profile, whose order is that of the forward pass; empty: the order of the plan.
        estimates: measure -> layer name -> estimate; each measure is a column.
    """
    estimates = estimates or {}
    done = choices(plan)
    order = [layer.name for layer in layers] or list(plan.shapes)
    units = [unit for unit in order if unit in done] + [unit for unit in done if unit not in order]
    alone = [name for name in order if name in plan.reasons] + [name for name in plan.reasons if name not in order]
    rows = [(unit, *_measured(unit, plan, estimates), str(done[unit]), plan.why.get(unit, "")) for unit in units]
    rows += [(name, *_measured(name, plan, estimates), "left alone", plan.reasons[name]) for name in alone if name not in done]
    return Table(("layer", "shape", *estimates, "choice", "why"), tuple(rows), frozenset(estimates))


def profile_table(profile: Profile) -> Table:
    """A table with a row for each layer, then for each channel group or block: measures, predicted distortions, and options.

    The distortions and options are those of the most cautious and of the boldest option, with standard errors if known.
    """
    estimates = profile.estimates
    rows = []
    for layer in profile.layers:
        cells = [_cell(estimates[name].get(layer.name)) for name in estimates]
        rows.append((layer.name, shape_text(layer.shape), f"{layer.weights:,}", *cells, *_options(layer.name, profile)))
    names = {layer.name for layer in profile.layers}
    rows += [(unit, "", "", *("–" for _ in estimates), *_options(unit, profile)) for unit in profile.table if unit not in names]
    header = ("layer", "shape", "weights", *estimates, f"distortion, {profile.unit}", "from", "options")
    return Table(header, tuple(rows), frozenset({"weights", *estimates}))


def _options(unit: str, profile: Profile) -> tuple[str, str, str]:
    """Cells for the distortions of a unit's first and last option, their source, and these options."""
    options = profile.table.get(unit, ())
    if not options:
        return "–", "–", f"left alone: {profile.reasons.get(unit, 'not measured')}"
    source, ends = profile.source.get(unit, "–"), (options[0], options[-1])
    if len(options) == 1:
        return "–" if source == UNMEASURED else _distortion(ends[0]), source, f"{_choice(unit, ends[0])} only"
    span = " to ".join(_choice(unit, option) for option in ends)
    return " to ".join(map(_distortion, ends)), source, f"{len(options)} options, {span}"


def _choice(unit: str, option: Option) -> str:
    """The choice of an option as text; an empty choice keeps all channels of a group or block."""
    return "all kept" if unit.startswith(STRUCTURE) and option.choice == Choice() else str(option.choice)


def _distortion(option: Option) -> str:
    """A distortion with its standard error."""
    return estimate_text(Estimate(option.distortion, option.stderr, 0))


def measures_sentence(profile: Profile) -> str:
    """A hint for recipes that compute no measures; empty for others.

    Example:
        >>> measures_sentence(Profile((), {"hill": {}}, {}, {}, {}, 0, 0, 0, "", "r", "t"))
        ''
    """
    if profile.estimates:
        return ""
    return (
        f"recipe '{profile.recipe}' computes no measures: it predicts distortions without them. To see some, add e.g. "
        """--set 'measure=[{name="stable_rank"}, {name="hill"}]', or measure with --recipe heavy-tail."""
    )


def shape_text(shape: Sequence[int]) -> str:
    """A shape as text, `64×32×3×3`."""
    return "×".join(map(str, shape))


def _measured(unit: str, plan: Plan, estimates: Mapping[str, Mapping[str, Estimate]]) -> tuple[str, ...]:
    """Cells for the shape of a unit and its measures."""
    return (shape_text(plan.shapes.get(unit, ())), *(_cell(by_layer.get(unit)) for by_layer in estimates.values()))


def _cell(estimate: Estimate | None) -> str:
    return "–" if estimate is None else estimate_text(estimate)
