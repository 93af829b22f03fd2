"""Options of the conformance kit (``pytest --backend NAME``), and what ``-m deep`` means."""

import pytest

pytest_plugins = ["softbench.conformance.pytest_plugin"]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave deep tests out unless a marker expression asks for tests by marker."""
    if config.option.markexpr:
        return
    deep = [item for item in items if item.get_closest_marker("deep")]
    if deep:
        config.hook.pytest_deselected(items=deep)
        items[:] = [item for item in items if not item.get_closest_marker("deep")]
