"""``pytest -p softbench.conformance.pytest_plugin``: the options of `softbench.conformance.suite`."""

from softbench.conformance.suite import pytest_addoption

__all__ = ["pytest_addoption"]
