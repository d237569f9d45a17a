"""Linear algebra on the tensors' own device: second moments, damped Cholesky factors, spectra and distances.

Every function works on batches over the leading axes and returns float64, whatever the dtype of its arguments.
"""

from dyncompress.linalg.distances import pairwise_distances
from dyncompress.linalg.eigenvalues import spectra, streamed_spectra
from dyncompress.linalg.factors import damped, damped_cholesky, damped_diagonal
from dyncompress.linalg.memory import kept_memory
from dyncompress.linalg.moments import SecondMoment
from dyncompress.linalg.precision import full_precision

__all__ = [
    "SecondMoment",
    "damped",
    "damped_cholesky",
    "damped_diagonal",
    "full_precision",
    "kept_memory",
    "pairwise_distances",
    "spectra",
    "streamed_spectra",
]
