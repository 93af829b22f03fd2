"""``python -m softbench.gpu_selftest [--out FILE]``: the short name of `softbench.measure.gpu.selftest`."""

import sys

from softbench.measure.gpu.selftest import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
