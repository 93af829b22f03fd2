"""The built-in backends of softbench: one module or package each, imported by `softbench.registry` on demand.

Every module defines one subclass of `softbench.interface.RowBackend` and imports that interface and its own
library, nothing else. `python.py` and `numpy.py` are the ones to read first.
"""
