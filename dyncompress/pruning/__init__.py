"""Set weights to zero, remove channels, factor layers into two: one method a file, on the device of the tensors.

`PRUNERS` maps the name that a recipe writes to its class. A pruner is called with a weight, an `Observation` of its layer and a
`Choice`, and returns a new weight of the same shape; the weight that it gets is never changed.
"""

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
