"""Who gets what: costs and harms of choices, and the solvers that pick one choice for every unit."""

from dyncompress.allocation.knapsack import Knapsack
from dyncompress.allocation.uniform import Uniform

ALLOCATORS = {"knapsack": Knapsack, "uniform": Uniform}

__all__ = ["ALLOCATORS", "Knapsack", "Uniform"]
