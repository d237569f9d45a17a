"""Annotated dtypes and shapes are checked while tests run, and cost a user of the package nothing."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType

import numpy as np
import pytest

from dyncompress.measures.distances import euclidean_distances
from dyncompress.types.arrays import Float
from tests.array_checks import PACKAGES


def jaxtyping_that_checks() -> ModuleType:
    """The module, where its checks are on."""
    pytest.importorskip("beartype")
    jaxtyping = pytest.importorskip("jaxtyping")
    if jaxtyping.config.jaxtyping_disable:
        pytest.skip("JAXTYPING_DISABLE turns the checks off")
    return jaxtyping


def test_a_wrong_shape_or_dtype_is_a_type_error() -> None:
    jaxtyping = jaxtyping_that_checks()
    assert euclidean_distances(np.zeros((3, 2))).shape == (3, 3)
    for wrong in (np.zeros(3), np.zeros((3, 2, 1)), np.zeros((3, 2), np.complex128), [[0.0, 1.0]]):
        with pytest.raises(jaxtyping.TypeCheckError):
            euclidean_distances(wrong)


def test_an_axis_has_one_size_throughout_a_call() -> None:
    jaxtyping = jaxtyping_that_checks()
    from dyncompress.certificates.paired import _score

    with pytest.raises(jaxtyping.TypeCheckError):
        _score(np.zeros(3), np.zeros(4), 10, 0.1)


@pytest.mark.parametrize("package", PACKAGES)
def test_importing_a_package_imports_neither_jaxtyping_nor_beartype(package: str) -> None:
    code = f"import sys, {package}\nprint(sorted({{'jaxtyping', 'beartype'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_annotations_are_the_plain_array_where_jaxtyping_is_not_loaded() -> None:
    code = "import numpy as np\nfrom dyncompress.types.arrays import Float\nassert Float[np.ndarray, 'n d'] is np.ndarray"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unknown_names_are_refused() -> None:
    pytest.importorskip("jaxtyping")
    with pytest.raises(ImportError):
        from dyncompress.types.arrays import Flaot  # noqa: F401
    assert Float is not None
