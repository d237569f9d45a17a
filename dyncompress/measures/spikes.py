"""The number of eigenvalues of a layer's weight matrix above the bulk of a noise matrix."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dyncompress.measures.border import require, unusable
from dyncompress.measures.esd_alpha import pooled_eigenvalues
from dyncompress.types import Estimate, Need, Observation, Spectrum
from dyncompress.types.arrays import Float, Float64

FEWEST, ADVISED = 10, 50
ANGLES = 4096


@dataclass(frozen=True)
class Spikes:
    """The number of eigenvalues of W W^T above the largest one that independent noise of the same variance would have.

    For an m x n matrix (m <= n, q = m / n) of independent entries with variance s^2 the eigenvalues fill the Marchenko-Pastur
    bulk up to n s^2 (1 + sqrt q)^2, and the largest fluctuates around it by the Tracy-Widom scale; an eigenvalue is counted
    when it lies `margin` such scales above. s^2 is estimated from the median eigenvalue, which spikes hardly change.

    Source: Marchenko, Pastur (1967); Johnstone, Annals of Statistics 29 (2001) for centre and scale; Gavish, Donoho (2014) for
    the median. A planted spike is visible from strength q^(1/4) on (Baik, Ben Arous, Peche 2005).
    Assumes: a bulk of independent entries of equal variance; rows with very different norms widen the bulk and cause false
    spikes.
    Cost: one symmetric eigenvalue problem.
    Fails when: half of the eigenvalues are zero; there are fewer than 50. A count has no standard error (NaN).

    Attributes:
        margin: in Tracy-Widom scales; with 2.02, 1 % of noise matrices have a false spike.
    """

    margin: float = 2.02

    def __post_init__(self) -> None:
        """Check the fields."""
        require(self.margin >= 0, "spikes", "margin", self.margin, "at least 0")

    @property
    def needs(self) -> tuple[Need, ...]:
        """The spectrum of the flattened weight."""
        return (Spectrum("flat"),)

    def __call__(self, observation: Observation) -> Estimate:
        """The count; `fit` is the distance of the eigenvalues to the bulk's law, a note gives the Marchenko-Pastur soft rank."""
        values, lost = pooled_eigenvalues(observation, "flat")
        rows, columns = sorted((observation.layer.out, observation.layer.fan_in))
        if rows < FEWEST:
            return unusable(rows, f"{rows} eigenvalues; the bulk needs {FEWEST}")
        if lost >= rows // 2:
            return unusable(rows, f"{lost} of {rows} eigenvalues are zero: there is no bulk")
        bulk = NoiseBulk(rows, columns, float(np.median(np.concatenate([np.zeros(lost), values]))))
        count = int(np.count_nonzero(values > bulk.edge + self.margin * bulk.edge_scale))
        notes = [
            f"Marchenko-Pastur soft rank (edge / largest eigenvalue) {bulk.edge / values[-1]:.3f}",
            "a count has no standard error",
        ]
        if rows < ADVISED:
            notes.append(f"only {rows} eigenvalues; {ADVISED} are advised")
        return Estimate(float(count), math.nan, rows, fit=bulk.distance(values), valid=rows >= ADVISED, notes=tuple(notes))


@dataclass(frozen=True)
class NoiseBulk:
    """The spectrum that independent noise of this shape would have, fitted at the median eigenvalue.

    Attributes:
        rows, columns: size of the matrix, rows <= columns.
        median: median eigenvalue of W W^T.
    """

    rows: int
    columns: int
    median: float

    @property
    def variance(self) -> float:
        """Variance of one entry of the matrix."""
        grid, share = _bulk_distribution(self.rows / self.columns)
        return self.median / (self.columns * float(np.interp(0.5, share, grid)))

    @property
    def edge(self) -> float:
        """Upper end of the bulk, in units of the eigenvalues."""
        return self.variance * (math.sqrt(self.rows) + math.sqrt(self.columns)) ** 2

    @property
    def edge_scale(self) -> float:
        """Scale of the largest noise eigenvalue's fluctuation around the edge."""
        small, large = math.sqrt(self.rows), math.sqrt(self.columns)
        return self.variance * (small + large) * (1 / small + 1 / large) ** (1 / 3)

    def distance(self, values: Float[np.ndarray, " n"]) -> float:
        """Kolmogorov-Smirnov distance between ascending eigenvalues `[n]` and the bulk's law."""
        grid, share = _bulk_distribution(self.rows / self.columns)
        model = np.interp(values / (self.columns * self.variance), grid, share, left=0.0, right=1.0)
        steps = np.arange(values.size + 1) / values.size
        return float(np.maximum(np.abs(model - steps[1:]), np.abs(model - steps[:-1])).max())


def _bulk_distribution(ratio: float) -> tuple[Float64[np.ndarray, " angles"], Float64[np.ndarray, " angles"]]:
    """Abscissae and distribution function of the Marchenko-Pastur law of aspect `ratio` <= 1 and unit variance.

    With x = 1 + q - 2 sqrt(q) cos t the density in t is (2 / pi) sin^2 t / x, smooth enough for the midpoint rule.
    """
    angles = (np.arange(ANGLES) + 0.5) * (math.pi / ANGLES)
    x = 1 + ratio - 2 * math.sqrt(ratio) * np.cos(angles)
    density = np.sin(angles) ** 2 / x
    share = np.cumsum(density) - 0.5 * density
    return x, share / density.sum()
