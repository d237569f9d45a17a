"""Memory that stays in the process for the time of a verb."""

import subprocess
import sys

import pytest

from dyncompress.linalg import kept_memory

RESIDENT = """
import torch
from dyncompress.linalg import kept_memory

def resident():
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))

def grown():
    tensors = [torch.full((8 << 20,), 1.0) for _ in range(4)]
    del tensors
    return resident() - before

torch.full((8 << 20,), 1.0)
before = resident()
with kept_memory():
    with kept_memory():
        grown()
    inside = grown()
print(inside, resident() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_freed_memory_stays_in_the_process_until_the_block_is_left() -> None:
    """Four tensors of 32 MB: 131,072 kB, whatever the size of a page."""
    run = subprocess.run([sys.executable, "-c", RESIDENT], capture_output=True, text=True, check=True)
    inside, afterwards = map(int, run.stdout.split())
    assert inside > 100_000
    assert afterwards < 40_000


def test_an_error_leaves_the_block() -> None:
    with pytest.raises(KeyError), kept_memory():
        raise KeyError
    with kept_memory():
        pass
