"""Which allocator is best for a network: all of them at one budget, judged on the same held-out examples."""

from dyncompress.pipeline.comparison.compare_allocators import compare
from dyncompress.types.comparison import AllocatorResult, Comparison, Ratio, Verdict

__all__ = ["AllocatorResult", "Comparison", "Ratio", "Verdict", "compare"]
