"""Tables of layers: what was measured, what was chosen, and why. Values only; how they are drawn is the reader's business."""

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
        rows: one tuple a row, as long as the header.
        numeric: names of the columns that are aligned to the right.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: frozenset[str] = frozenset()

    def plain(self) -> str:
        """Aligned columns for a terminal.

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
    """A number in few digits; a dash where there is none.

    Example:
        >>> number(0.034567), number(1234567.0), number(float("nan"))
        ('0.0346', '1.23e+06', '–')
    """
    return "–" if math.isnan(value) else f"{value:.{digits}g}"


def percent(fraction: float, digits: int = 3) -> str:
    """A fraction as a person reads it.

    Example:
        >>> percent(0.1234), percent(0.0), percent(float("nan"))
        ('12.3 %', '0 %', '–')
    """
    return "–" if math.isnan(fraction) else f"{100 * fraction:.{digits}g} %"


def estimate_text(estimate: Estimate) -> str:
    """The value with its standard error; marked where the estimator's own conditions fail.

    Example:
        >>> estimate_text(Estimate(2.5, 0.25, 100)), estimate_text(Estimate(2.5, float("nan"), 4, valid=False))
        ('2.5 ± 0.25', '2.5 ?')
        >>> estimate_text(Estimate(11.25, 0.0, 64))  # computed, not estimated
        '11.2'
    """
    stderr = "" if math.isnan(estimate.stderr) or estimate.stderr == 0 else f" ± {number(estimate.stderr, 2)}"
    return f"{number(estimate.value)}{stderr}" + ("" if estimate.valid else " ?")


def stage_name(stage: str) -> str:
    """What a stage of compression is called.

    Example:
        >>> stage_name("teach"), stage_name("prune")
        ('distil weights', 'prune')
    """
    return {"teach": "distil weights", "distil": "distil gains and biases"}.get(stage, stage)


def choices(plan: Plan) -> dict[str, Choice]:
    """Unit -> what was done, or what is asked where the plan hasn't been applied."""
    return {unit: plan.realised.get(unit, asked) for unit, asked in plan.asked.items()}


def layer_table(plan: Plan, layers: Sequence[Layer] = (), estimates: Mapping[str, Mapping[str, Estimate]] | None = None) -> Table:
    """One row a unit, then one a layer that is left alone: shape, measures, choice, reason.

    Args:
        plan: applied or not.
        layers: of the profile, for the order of the forward pass; empty: the plan's own order.
        estimates: measure -> layer -> Estimate; each measure is a column.
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
    """One row a layer, then one a channel group or block: measures, distortion of its options, and from which to which they go.

    Distortions are predicted: of the most careful option and of the boldest one, with standard errors where these are known.
    """
    found = profile.estimates
    rows = []
    for layer in profile.layers:
        measured = [_cell(found[name].get(layer.name)) for name in found]
        rows.append((layer.name, shape_text(layer.shape), f"{layer.weights:,}", *measured, *_options(layer.name, profile)))
    names = {layer.name for layer in profile.layers}
    rows += [(unit, "", "", *("–" for _ in found), *_options(unit, profile)) for unit in profile.table if unit not in names]
    header = ("layer", "shape", "weights", *found, f"distortion, {profile.unit}", "from", "options")
    return Table(header, tuple(rows), frozenset({"weights", *found}))


def _options(unit: str, profile: Profile) -> tuple[str, str, str]:
    """The distortions of a unit's options, their source, and the span of the options."""
    options = profile.table.get(unit, ())
    if not options:
        return "–", "–", f"left alone: {profile.reasons.get(unit, 'not measured')}"
    source, ends = profile.source.get(unit, "–"), (options[0], options[-1])
    if len(options) == 1:
        return "–" if source == UNMEASURED else _distortion(ends[0]), source, f"{_choice(unit, ends[0])} only"
    span = " to ".join(_choice(unit, option) for option in ends)
    return " to ".join(map(_distortion, ends)), source, f"{len(options)} options, {span}"


def _choice(unit: str, option: Option) -> str:
    """What an option does; one that does nothing keeps a channel group or block whole, and leaves a layer in float."""
    return "all kept" if unit.startswith(STRUCTURE) and option.choice == Choice() else str(option.choice)


def _distortion(option: Option) -> str:
    """A distortion with its standard error."""
    return estimate_text(Estimate(option.distortion, option.stderr, 0))


def measures_sentence(profile: Profile) -> str:
    """What to do where a recipe has no measures; empty where it has some.

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
    """`64 x 32 x 3 x 3`, with the sign for it."""
    return "×".join(map(str, shape))


def _measured(unit: str, plan: Plan, estimates: Mapping[str, Mapping[str, Estimate]]) -> tuple[str, ...]:
    """The shape and one cell a measure."""
    return (shape_text(plan.shapes.get(unit, ())), *(_cell(found.get(unit)) for found in estimates.values()))


def _cell(estimate: Estimate | None) -> str:
    return "–" if estimate is None else estimate_text(estimate)
