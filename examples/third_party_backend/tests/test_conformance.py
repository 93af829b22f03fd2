"""The contract of softbench, one pytest case per line of it."""

from softbench_longdouble import LongDoubleBackend

from softbench.conformance.suite import BackendSuite


class TestLongDouble(BackendSuite):
    backend = LongDoubleBackend
    profile = "quick"
