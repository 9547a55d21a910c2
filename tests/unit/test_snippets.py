"""Where two lines differ: whole expressions, or whole lines, and never a piece of either."""

from __future__ import annotations

import ast

import pytest

from sitq.snippets import snippets

LONG = "a_long_name_that_makes_the_line_too_long_to_be_shown"
CALL = "model = SVC(C=int(C), gamma=gamma, kernel='rbf', cache_size=500, shrinking=True)"
CASES = {
    "a short line": ("x = int(C)", "x = max(1, int(C))", ("x = int(C)", "x = max(1, int(C))")),
    "within brackets": (CALL, CALL.replace("int(C)", "max(1, int(C))"), ("C=int(C)", "C=max(1, int(C))")),
    "the largest that fits": (
        f"{LONG} = fit(X, y, sum(map(int, C)) + 1)",
        f"{LONG} = fit(X, y, sum(map(int, C)) + 2)",
        ("fit(X, y, sum(map(int, C)) + 1)", "fit(X, y, sum(map(int, C)) + 2)"),
    ),
    "one argument more": (f"f({LONG}, g(x))", f"f({LONG}, g(x, y))", ("g(x)", "g(x, y)")),
    "a sign": (f"f({LONG}, -1)", f"f({LONG}, 1)", ("-1", "1")),
    "a head": (f"for i in range(int(C), {LONG}):", f"for i in range(C, {LONG}):", ("int(C)", "C")),
    "another head": (f"elif {LONG}(b) and c(dd[1]):", f"elif {LONG}(b) and c(dd[2]):", ("c(dd[1])", "c(dd[2])")),
    "a decorator": (f"@cached({LONG}, most=3)", f"@cached({LONG}, most=4)", ("most=3", "most=4")),
    "behind what is no ASCII": (f"f('größe → ', {LONG}, 0.1)", f"f('größe → ', {LONG}, 0.15)", ("0.1", "0.15")),
    "words of a text": (f"P = 'say (it) in one {LONG}'", f"P = 'say (it) in two {LONG}'", ("one", "two")),
    "data": (str([*range(40)]), str([*range(20), 99, *range(21, 40)]), ("20", "99")),
    "an operator": (f"{LONG} + b", f"{LONG} - b", None),
    "a name that is too long": (f"{LONG} = 1", f"{LONG}_2 = 1", None),
    "two places": (f"f({LONG}, 1, 2)", f"f({LONG}, 2, 3)", None),
    "an f-string": (f"f'{LONG} {{x}}'", f"f'{LONG} {{y}}'", None),
    "a method of another name": (f"{LONG}.fit(x)", f"{LONG}.fit_transform(x)", None),
    "no line of its own": (f"case {LONG}(a):", f"case {LONG}(b):", None),
    "no code": (f"<{LONG} at 1>", f"<{LONG} at 2>", None),
    "very long": (f"{LONG} = [{'1, ' * 1000}]", f"{LONG} = [{'2, ' * 1000}]", None),
    "too deep": (f"{LONG} = {'(' * 300}1{')' * 300}", f"{LONG} = {'(' * 300}2{')' * 300}", None),
}


@pytest.mark.parametrize("case", CASES)
def test_what_differs_is_shown_whole_or_not_at_all(case: str) -> None:
    old, new, told = CASES[case]
    assert snippets(old, new, 40) == told
    assert snippets(new, old, 40) == (told and told[::-1])
    for text in told or ():
        ast.parse(f"f({text})" if "=" in text and " " not in text.partition("=")[0] else text)
