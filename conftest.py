"""Pytest reads this before it imports the package, for the tests and for the package's own examples alike."""

from tests.array_checks import install_array_checks

install_array_checks()
