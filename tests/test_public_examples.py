"""Every public name has a runnable example in its docstring; `--doctest-modules` runs the examples."""

from __future__ import annotations

import doctest

import pytest

import dyncompress

# Names that still lack an example.
WITHOUT_EXAMPLE = frozenset({"allocate", "apply", "certify", "compress", "export", "measure", "verify"})


@pytest.mark.parametrize("name", dyncompress.__all__)
def test_a_public_name_has_an_example(name: str) -> None:
    docstring = getattr(dyncompress, name).__doc__ or ""
    examples = doctest.DocTestParser().get_examples(docstring, name)
    assert bool(examples) != (name in WITHOUT_EXAMPLE), f"{name}: add an example, or take the name off WITHOUT_EXAMPLE"
