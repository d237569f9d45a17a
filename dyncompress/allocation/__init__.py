"""Allocation: costs and distortions of options, the solvers that choose one option for every unit, and published rules.

`ALLOCATORS` maps names to solvers, which minimise the profile's own distortions within the budget. `RULES` maps names to
published rules, which rate the options by a table of their own. `Prior` and `posterior` predict the sensitivity of layers that
were not probed.
"""

from dyncompress.allocation.alpha_pruning import AlphaPruning
from dyncompress.allocation.common_level import CommonLevel
from dyncompress.allocation.depth_linear import DepthLinear
from dyncompress.allocation.equal_error import EqualError
from dyncompress.allocation.equal_share import EqualShare
from dyncompress.allocation.erk import ERK
from dyncompress.allocation.global_magnitude import GlobalMagnitude
from dyncompress.allocation.hawq import HAWQ
from dyncompress.allocation.knapsack import Knapsack
from dyncompress.allocation.lamp import LAMP
from dyncompress.allocation.owl import OWL
from dyncompress.allocation.prior import Evidence, Prior, Sensitivity, posterior
from dyncompress.allocation.prior_learning import learn_prior
from dyncompress.allocation.prior_table import prior_from_table, prior_to_table
from dyncompress.allocation.random_share import RandomShare
from dyncompress.allocation.uniform import Uniform

ALLOCATORS = {"knapsack": Knapsack, "uniform": Uniform}
RULES = {
    "equal_share": EqualShare,
    "equal_error": EqualError,
    "global_magnitude": GlobalMagnitude,
    "lamp": LAMP,
    "erk": ERK,
    "owl": OWL,
    "alpha_pruning": AlphaPruning,
    "depth_linear": DepthLinear,
    "hawq": HAWQ,
    "random_share": RandomShare,
}

__all__ = [
    "ALLOCATORS",
    "ERK",
    "HAWQ",
    "LAMP",
    "OWL",
    "RULES",
    "AlphaPruning",
    "CommonLevel",
    "DepthLinear",
    "EqualError",
    "EqualShare",
    "Evidence",
    "GlobalMagnitude",
    "Knapsack",
    "Prior",
    "RandomShare",
    "Sensitivity",
    "Uniform",
    "learn_prior",
    "posterior",
    "prior_from_table",
    "prior_to_table",
]
