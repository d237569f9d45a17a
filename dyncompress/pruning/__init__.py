"""Zeroes in weights and channels less, on the tensors' own device: one pruner a file."""

from dyncompress.pruning.channels import Reader, eliminate, eliminate_together, refit_columns
from dyncompress.pruning.gradual import GradualRefit
from dyncompress.pruning.least_squares import refit
from dyncompress.pruning.magnitude import Magnitude, MagnitudeRefit
from dyncompress.pruning.sparsegpt import SparseGpt

PRUNERS = {"magnitude": Magnitude, "magnitude_refit": MagnitudeRefit, "gradual_refit": GradualRefit, "sparsegpt": SparseGpt}

__all__ = [
    "PRUNERS",
    "GradualRefit",
    "Magnitude",
    "MagnitudeRefit",
    "Reader",
    "SparseGpt",
    "eliminate",
    "eliminate_together",
    "refit",
    "refit_columns",
]
