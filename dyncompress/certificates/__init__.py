"""Finite-sample bounds, one a file, and the certificate made of them."""

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
