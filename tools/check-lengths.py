#!/usr/bin/env python3
"""Names the files that are longer than anybody reads at once.

  tools/check-lengths.py [--fail] FOLDER...     (--fail: it is an error)
"""

import pathlib
import sys

MOST = 500

long = []
for folder in sys.argv[1:]:
    for path in sorted(pathlib.Path(folder).rglob("*.rs")) if folder != "--fail" else ():
        lines = path.read_text().count("\n")
        if lines > MOST:
            long.append(f"{path}: {lines} lines, {MOST} are the limit")
print("\n".join(long), end="\n" if long else "")
sys.exit("--fail" in sys.argv and bool(long))
