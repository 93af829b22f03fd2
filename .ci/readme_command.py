"""Print the n-th ```bash block of README.md, so that CI runs what the README says."""

import re
import sys
from pathlib import Path

blocks = re.findall(r"^```bash\n(.*?)^```$", Path("README.md").read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
command = blocks[int(sys.argv[1]) - 1].strip()
if "\n" in command:
    raise SystemExit(f"block {sys.argv[1]} of README.md is not one line:\n{command}")
print(command)
