"""Print the lower bounds of pyproject.toml as pins for pip: of the dependencies, and of the extras that are named."""

import re
import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
requirements = project["dependencies"] + [r for name in sys.argv[1:] for r in project["optional-dependencies"][name]]
for requirement in requirements:
    if match := re.match(r"([\w.-]+)(?:\[[\w,]+\])?\s*>=\s*([\d.]+)", requirement):
        print(f"{match[1]}=={match[2]}")
