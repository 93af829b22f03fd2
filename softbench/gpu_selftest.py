"""``python -m softbench.gpu_selftest [--out FILE]``: the short name of `softbench.measure.gpu.selftest`."""

import sys

from softbench.measure.gpu.selftest import benchmark, main

__all__ = ["benchmark", "main"]

if __name__ == "__main__":
    sys.exit(main())
