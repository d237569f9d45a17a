"""The Marchenko-Pastur soft rank: the edge of the noise bulk relative to the largest eigenvalue."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dyncompress.measures.border import unusable
from dyncompress.measures.esd_alpha import pooled_eigenvalues
from dyncompress.measures.spikes import ADVISED, FEWEST, NoiseBulk
from dyncompress.types import Estimate, Need, Observation, Spectrum


@dataclass(frozen=True)
class SoftRank:
    """Edge of the noise bulk / largest eigenvalue of W W^T: about 1 for noise, small where there are strong directions.

    The bulk is that of `spikes`; its variance is estimated from the median eigenvalue.

    Source: Martin, Mahoney, JMLR 22 (2021). Departure: weightwatcher fits the variance to a kernel density, so its values differ
    in the second decimal.
    Assumes: a bulk of independent entries of equal variance.
    Cost: one symmetric eigenvalue problem.
    Fails when: half of the eigenvalues are zero; there are fewer than 50. `stderr` is that of the largest eigenvalue of pure
    noise (its Tracy-Widom scale, relative), a lower limit of the true one.
    """

    @property
    def needs(self) -> tuple[Need, ...]:
        """The spectrum of the flattened weight."""
        return (Spectrum("flat"),)

    def __call__(self, observation: Observation) -> Estimate:
        """The soft rank; `fit` is the distance of the eigenvalues to the bulk's law."""
        values, lost = pooled_eigenvalues(observation, "flat")
        rows, columns = sorted((observation.layer.out, observation.layer.fan_in))
        if rows < FEWEST:
            return unusable(rows, f"{rows} eigenvalues; the bulk needs {FEWEST}")
        if lost >= rows // 2:
            return unusable(rows, f"{lost} of {rows} eigenvalues are zero: there is no bulk")
        bulk = NoiseBulk(rows, columns, float(np.median(np.concatenate([np.zeros(lost), values]))))
        value = bulk.edge / values[-1]
        notes = () if rows >= ADVISED else (f"only {rows} eigenvalues; {ADVISED} are advised",)
        stderr = float(value * bulk.edge_scale / values[-1])
        return Estimate(float(value), stderr, rows, fit=bulk.distance(values), valid=rows >= ADVISED, notes=notes)
