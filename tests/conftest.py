"""Options of the conformance kit: ``pytest --backend NAME`` (see `softbench.conformance.suite`)."""

pytest_plugins = ["softbench.conformance.pytest_plugin"]
