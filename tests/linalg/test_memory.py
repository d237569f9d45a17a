"""Memory that stays in the process for the time of a verb."""

import subprocess
import sys

import pytest

from dyncompress.linalg import kept_memory

PAGES = """
import resource, sys
import torch
from dyncompress.linalg import kept_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        torch.full((8 << 20,), 1.0)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

without = faults()
with kept_memory():
    with kept_memory():
        faults()
    inside = faults()
print(without, inside, faults())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_freed_memory_is_taken_from_the_system_once() -> None:
    """Tensors of 32 MB: 8 of them have 65,536 pages, or 128 large ones."""
    run = subprocess.run([sys.executable, "-c", PAGES], capture_output=True, text=True, check=True)
    without, inside, after = map(int, run.stdout.split())
    assert inside < 0.1 * without and after > 0.5 * without


def test_an_error_leaves_the_block() -> None:
    with pytest.raises(KeyError), kept_memory():
        raise KeyError
    with kept_memory():
        pass
