"""Where two lines of code differ, as whole expressions: what is cut within brackets is no code, and hard to read."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import NamedTuple

MOST = 2_000  # characters of a line that is looked into


class _Parsed(NamedTuple):
    node: ast.AST
    text: bytes  # since Python counts bytes


def snippets(old: str, new: str, most: int) -> tuple[str, str] | None:
    """Return the largest expressions in which two lines differ, neither of more than so many characters.

    Returns
    -------
    tuple of str, or None
        Whole lines if they are short; of long texts in quotes the words. None: nothing that is whole is so short.

    Examples
    --------
    >>> snippets("model = fit(X, y, C=int(C), cache=500)", "model = fit(X, y, C=max(1, int(C)), cache=500)", 20)
    ('C=int(C)', 'C=max(1, int(C))')
    """
    if max(len(old), len(new)) <= most:
        return old, new
    if max(len(old), len(new)) > MOST:
        return None
    try:
        one, other = _parsed(old), _parsed(new)
        for a, b in _differing(one.node, other.node):
            found = _source(one.text, a), _source(other.text, b)
            if _is_text(a) and _is_text(b) and max(map(len, found)) > most:
                found = _words(ast.literal_eval(a), ast.literal_eval(b))
            if all(found) and max(map(len, found)) <= most:
                return found
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        pass  # a line that only others make whole, such as one of a match, or no code
    return None


def _parsed(line: str) -> _Parsed:
    """Parse a line of its own, which may be the head of a block."""
    line = line.removeprefix("@").removeprefix("el") if line.startswith(("@", "elif ")) else line
    (node,) = ast.parse(f"{line} pass" if line.endswith(":") else line).body
    return _Parsed(node, line.encode())


def _differing(a: ast.AST, b: ast.AST) -> Iterator[tuple[ast.AST, ast.AST]]:
    """Return the pairs that alone differ, the largest first."""
    while True:
        yield a, b
        if type(a) is not type(b) or isinstance(a, ast.Constant | ast.JoinedStr):
            return  # what stands in an f-string is not where Python 3.11 says
        parts, others = list(ast.iter_child_nodes(a)), list(ast.iter_child_nodes(b))
        pairs = [(x, y) for x, y in zip(parts, others, strict=False) if ast.dump(x) != ast.dump(y)]
        if len(parts) != len(others) or len(pairs) != 1 or _own(a) != _own(b):
            return
        ((a, b),) = pairs


def _own(node: ast.AST) -> list[object]:
    """Return what a node holds beside other nodes: the names."""
    return [value for _, value in ast.iter_fields(node) if not isinstance(value, ast.AST | list)]


def _source(text: bytes, node: ast.AST) -> str:
    if not isinstance(node, ast.expr | ast.keyword | ast.arg):
        return ""  # a statement may have been completed, and an operator is no expression
    return text[node.col_offset : node.end_col_offset].decode()


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _words(old: str, new: str) -> tuple[str, str]:
    words, others = re.findall(r"\w+|\W", old), re.findall(r"\w+|\W", new)
    start = _common(words, others)
    end = _common(words[start:][::-1], others[start:][::-1])
    return "".join(words[start : len(words) - end]), "".join(others[start : len(others) - end])


def _common(words: Sequence[str], others: Sequence[str]) -> int:
    same = takewhile(lambda pair: pair[0] == pair[1], zip(words, others, strict=False))
    return sum(1 for _ in same)
