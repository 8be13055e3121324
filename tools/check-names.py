#!/usr/bin/env python3
"""Looks whether what is named as a question is one: a function called is_... or has_...
returns something, and takes no `&mut self`. Tests are left out.

  tools/check-names.py SOURCES...
"""

import pathlib
import re
import sys

QUESTION = re.compile(r"\bfn ((?:is|has)_\w+)\b([^{;]*)[{;]")

wrong = []
for folder in sys.argv[1:]:
    for path in sorted(pathlib.Path(folder).rglob("*.rs")):
        text = path.read_text()
        for found in QUESTION.finditer(text) if path.name != "tests.rs" else ():
            name, rest = found.groups()
            if "&mut self" in rest or "->" not in rest:
                line = text.count("\n", 0, found.start()) + 1
                wrong.append(f"{path}:{line}: {name} is a question, and does something")
print("\n".join(wrong), end="\n" if wrong else "")
sys.exit(bool(wrong))
