"""The contract of softbench, one pytest case per line of it."""

from softbench.conformance.suite import BackendSuite
from softbench_longdouble import LongDoubleBackend


class TestLongDouble(BackendSuite):
    backend = LongDoubleBackend
    profile = "quick"
