"""``python -m softbench``."""

import sys

from softbench.cli import main

if __name__ == "__main__":
    sys.exit(main())
