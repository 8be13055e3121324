#!/usr/bin/env python3
"""Looks whether files import each other in a circle.

Two may: what somebody has, and what it does. With more of them none can be read, or
tried, without all others. Tests are left out.

  tools/check-import-cycles.py SOURCES[:MODULE]...     (of this module alone)
"""

import os
import re
import sys

MOST = 2
USE = re.compile(r"^\s*(?:pub(?:\([a-z: ]+\))? )?use ([^;]+);", re.M)
PATH = re.compile(r"\b((?:crate|super|self)(?:::\w+)+)")
TESTS = re.compile(r"\n#\[cfg\(test\)\]\nmod \w+ \{")
COMMENT = re.compile(r"//[^\n]*")


def modules(root):
    """The text of each module, by its path in the crate."""
    found = {}
    for folder, _, names in os.walk(root):
        for name in names:
            if not name.endswith(".rs") or name == "tests.rs":
                continue
            path = os.path.join(folder, name)
            parts = os.path.relpath(path, root)[:-3].split(os.sep)
            if parts[-1] in ("mod", "lib"):
                parts.pop()
            with open(path, encoding="utf-8") as file:
                found[tuple(parts)] = COMMENT.sub("", TESTS.split(file.read())[0])
    return found


def paths(tree):
    """All paths of a tree of imports, as a::{b, c::{d}}."""
    begin, brace, rest = tree.strip().partition("{")
    if not brace:
        yield re.sub(r"\s+as\s+\w+$", "", begin)
        return
    depth, part = 0, ""
    for letter in rest.rstrip()[:-1] + ",":
        if letter == "," and depth == 0:
            if part.strip():
                yield from (begin + path for path in paths(part))
            part = ""
            continue
        depth += (letter == "{") - (letter == "}")
        part += letter


def target(module, path, found):
    """The module that a path in this one leads to."""
    parts = [part.strip() for part in path.split("::")]
    if parts[0] == "crate":
        whole = parts[1:]
    elif parts[0] in ("super", "self"):
        up = 0
        while parts and parts[0] in ("super", "self"):
            up += parts.pop(0) == "super"
        whole = list(module[: len(module) - up]) + parts
    else:
        whole = list(module) + parts
    for length in range(len(whole), -1, -1):
        if tuple(whole[:length]) in found:
            return tuple(whole[:length])
    return module


def imports(found):
    """Which modules each of them imports, or names by their path."""
    graph = {}
    for module, text in found.items():
        named = {path for use in USE.findall(text) for path in paths(use)}
        named.update(PATH.findall(text))
        graph[module] = {target(module, path, found) for path in named} - {module}
    return graph


def circles(graph):
    """Sets of modules that lead to each other (Tarjan, 1972)."""
    number, low, stack, found = {}, {}, [], []

    def visit(module):
        number[module] = low[module] = len(number)
        stack.append(module)
        for other in graph[module]:
            if other not in number:
                visit(other)
            if other in stack:
                low[module] = min(low[module], low[other])
        if low[module] == number[module]:
            place = stack.index(module)
            found.append(stack[place:])
            del stack[place:]

    sys.setrecursionlimit(10_000)
    for module in graph:
        if module not in number:
            visit(module)
    return found


def main():
    bad = False
    for argument in sys.argv[1:]:
        root, _, part = argument.partition(":")
        graph = imports(modules(root))
        for circle in circles(graph):
            if sum(not part or module[:1] == (part,) for module in circle) <= MOST:
                continue
            bad = True
            print(f"{root}: {len(circle)} files import each other in a circle:")
            for module in sorted(circle):
                others = sorted("::".join(other) or "lib" for other in graph[module] & set(circle))
                print(f"  {'::'.join(module) or 'lib'} -> {', '.join(others)}")
    sys.exit(bad)


if __name__ == "__main__":
    main()
