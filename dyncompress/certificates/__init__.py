"""Finite-sample bounds, one bound a file, and the certificate that states them.

`BOUNDS` maps the name of a bound to its class; an instance is called as `bound(losses, delta)` and returns an `Interval`. `RISKS`
maps the name of a risk to its class; an instance is called as `risk(outputs, labels)` and returns one loss for each example.

Example:
    >>> import numpy as np
    >>> interval = BOUNDS["clopper_pearson"]()(np.array([1.0, 0.0, 0.0, 0.0]), 0.05)
    >>> interval.point, round(interval.upper, 4)
    (0.25, 0.7514)
"""

from dyncompress.certificates.betting import Betting, BettingTwoSided
from dyncompress.certificates.clopper_pearson import ClopperPearson, ClopperPearsonTwoSided
from dyncompress.certificates.disagreement import Disagreement
from dyncompress.certificates.hoeffding_bentkus import HoeffdingBentkus
from dyncompress.certificates.paired import PairedIncrease
from dyncompress.certificates.risks import RISKS

BOUNDS = {
    "clopper_pearson": ClopperPearson,
    "clopper_pearson_two_sided": ClopperPearsonTwoSided,
    "hoeffding_bentkus": HoeffdingBentkus,
    "betting": Betting,
    "betting_two_sided": BettingTwoSided,
    "paired_increase": PairedIncrease,
    "disagreement": Disagreement,
}

__all__ = ["BOUNDS", "RISKS"]
