#!/usr/bin/env python3
"""Looks whether files are longer than anybody reads at once.

  tools/check-lengths.py FOLDER...
"""

import pathlib
import sys

MOST = 500

long = []
for folder in sys.argv[1:]:
    for path in sorted(pathlib.Path(folder).rglob("*.rs")):
        lines = path.read_text().count("\n")
        if lines > MOST:
            long.append(f"{path}: {lines} lines, {MOST} are the limit")
print("\n".join(long), end="\n" if long else "")
sys.exit(bool(long))
