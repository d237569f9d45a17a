"""The comparison of an example's output sees what matters and nothing else."""

from __future__ import annotations

import pytest

from tests.examples.comparison import differences

SAME = {
    "a few bytes": ("59,558 bytes now", "59,600 bytes now"),
    "a few errors": ("accuracy: 97.50% in float32", "accuracy: 96.25% in float32"),
    "another width": ("conv1  4 bits: predicted distortion 2e-6", "conv1  3 bits, 65 % zeros: predicted distortion 3e-5"),
    "another bar": ("1,000 bytes  2e-6 nats  ###", "1,010 bytes  8e-6 nats  ####"),
}
DIFFERENT = {
    "twice the bytes": ("59,558 bytes now", "119,000 bytes now"),
    "other answers": ("accuracy: 97.50% in float32", "accuracy: 87.50% in float32"),
    "another layer": ("conv1  4 bits: predicted distortion 2e-6", "conv2  4 bits: predicted distortion 2e-6"),
    "another word": ("promise kept: True", "promise kept: False"),
    "one line less": ("a\nb", "a"),
    "a number less": ("weight [256, 64]", "weight [256]"),
}


@pytest.mark.parametrize("case", SAME)
def test_rounding_is_no_difference(case: str) -> None:
    assert differences(*SAME[case]) == []


@pytest.mark.parametrize("case", DIFFERENT)
def test_what_a_reader_would_notice_is_a_difference(case: str) -> None:
    assert len(differences(*DIFFERENT[case])) == 1
