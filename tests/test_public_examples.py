"""Every public name has a runnable example in its docstring; `--doctest-modules` runs the examples."""

from __future__ import annotations

import doctest

import pytest

import dyncompress


@pytest.mark.parametrize("name", dyncompress.__all__)
def test_a_public_name_has_an_example(name: str) -> None:
    docstring = getattr(dyncompress, name).__doc__ or ""
    examples = doctest.DocTestParser().get_examples(docstring, name)
    assert examples, f"{name} has no example in its docstring"
