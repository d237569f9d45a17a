"""Checks the annotated dtypes and shapes of arrays, and all other annotated types, at every call while tests run."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

PACKAGES = (
    "dyncompress.allocation",
    "dyncompress.certificates",
    "dyncompress.coding",
    "dyncompress.linalg",
    "dyncompress.measures",
    "dyncompress.pruning",
    "dyncompress.quantization",
)


def install_array_checks() -> None:
    """Let jaxtyping wrap the functions and dataclasses of `PACKAGES` as they are imported; without jaxtyping, do nothing.

    The checks make coding a weight three times slower, and most other tests hardly slower; JAXTYPING_DISABLE=1 turns them off.
    """
    if find_spec("jaxtyping") is not None and find_spec("beartype") is not None:
        from jaxtyping import install_import_hook

        install_import_hook(PACKAGES, f"{__name__}.checked")


def checked(function: Callable) -> Callable:
    """`function` with its types checked by beartype; as in PEP 484, an int passes for a float."""
    from beartype import BeartypeConf, beartype

    return beartype(conf=BeartypeConf(is_pep484_tower=True))(function)
