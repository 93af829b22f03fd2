"""Check a wheel's list of files: exactly the two packages as they are in the tree, typed, and nothing else."""

import subprocess
import sys
import zipfile

ROOTS = {"softbench": "softbench", "backends/softbench_backends": "softbench_backends"}

with zipfile.ZipFile(sys.argv[1]) as wheel:
    shipped = {name for name in wheel.namelist() if ".dist-info/" not in name}
tracked = subprocess.run(["git", "ls-files", *ROOTS], capture_output=True, text=True, check=True).stdout.split()
expected = {name.removeprefix("backends/") for name in tracked}

for package in ROOTS.values():
    if f"{package}/py.typed" not in shipped:
        raise SystemExit(f"{package}/py.typed is missing from the wheel")
if shipped != expected:
    raise SystemExit(f"missing from the wheel: {sorted(expected - shipped)}\nunexpected: {sorted(shipped - expected)}")
print(f"{len(shipped)} files in {', '.join(ROOTS.values())}: as in the tree")
