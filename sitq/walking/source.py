"""The source of functions and classes in canonical form: without comments, docstrings, annotations and formatting."""

from __future__ import annotations

import ast
import hashlib
import linecache
import os
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sitq.walking.bytecode import Uses, listing, uses_of

MAX_KNOWN = 4096  # pieces of code, and
MAX_CELLS = 64  # cells, that are remembered
MAX_LINES = 3_000  # of a file that is read for the eye only
Def = ast.FunctionDef | ast.AsyncFunctionDef
Scope = Def | ast.Lambda | ast.ClassDef


@dataclass(frozen=True, slots=True)
class Code:
    """What is known of one piece of code.

    Attributes
    ----------
    text : str
        Canonical source, with ``...`` for the defaults; of code that is judged in its compiled form, the listing where
        no source is found.
    defaults : dict of str
        The source of each default.
    compiled : str or None
        Digest of the compiled form where that is the judge.
    uses : Uses
        The names it uses.
    """

    text: str
    defaults: dict[str, str]
    compiled: str | None
    uses: Uses


@dataclass(frozen=True, slots=True)
class Body:
    """What a class says beside its functions.

    Attributes
    ----------
    head : list of str
        Decorators and keywords.
    statements : list of tuple
        ``(name or None, text)``: the name that the statement assigns or defines, if it is a single one.
    """

    head: list[str]
    statements: list[tuple[str | None, str]]


# Code objects of the same content are equal and may still come from different sources (`1 + 1` and `2`), so they are
# told apart by identity; each is held, since a number given by id() may soon be another's.
_codes: dict[int, tuple[types.CodeType, Code]] = {}
_cells: dict[str, tuple[list[str], Cell]] = {}


def code_of(code: types.CodeType) -> Code:
    """Return what is known of a piece of code; looked at once."""
    known = _codes.get(id(code))
    if known is None:
        if len(_codes) >= MAX_KNOWN:
            _codes.clear()
        known = _codes[id(code)] = (code, _look_at(code))
    return known[1]


def in_a_cell(filename: str) -> bool:
    """Whether a file is a cell of a notebook: its lines live in memory, and cannot be newer than what was compiled."""
    entry = linecache.cache.get(filename)
    return entry is not None and len(entry) > 1 and entry[1] is None


def class_body(code: types.CodeType, name: str) -> Body | None:
    """Return the body of a notebook's class in which a function was written; None where there is none."""
    cell = _cell(code.co_filename) if in_a_cell(code.co_filename) else None
    node = cell.find(code) if cell is not None else None
    home = cell.home_of(node) if cell is not None and isinstance(node, Def) else None
    if cell is None or home is None or home.name != name:
        return None
    return cell.body_of(home)


def _look_at(code: types.CodeType) -> Code:
    uses = uses_of(code)
    judged_by_source = in_a_cell(code.co_filename)
    text: str | None = None
    defaults: Any = {}
    try:
        cell = _cell(code.co_filename)
        node = cell.find(code) if cell is not None else None
        if node is not None:
            text, defaults = _unparse(node)
            if judged_by_source:
                # The names of annotations inside the function went with them; `__name` is known under another name.
                named = {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}
                uses.reads = {read: None for read in uses.reads if read[1] in named or "__" in read[1]}
                return Code(text, defaults, None, uses)
    except Exception:  # source that does not parse, nested too deep …: the compiled form is always there
        pass
    written = listing(code)
    compiled = hashlib.blake2b(written.encode("utf-8", "backslashreplace"), digest_size=16).hexdigest()
    return Code(text or written, defaults, compiled, uses)


def _cell(filename: str) -> Cell | None:
    """Return the parsed lines of a cell or file; None if they cannot be had."""
    memory = in_a_cell(filename)
    if not memory:
        if not os.path.isabs(filename):
            return None
        linecache.checkcache(filename)
    lines = linecache.getlines(filename)
    known = _cells.get(filename)
    if known is not None and known[0] is lines:
        return known[1]
    if not lines or (not memory and len(lines) > MAX_LINES):
        return None
    cell = Cell("".join(lines))
    if len(_cells) >= MAX_CELLS:
        _cells.clear()
    _cells[filename] = (lines, cell)
    return cell


def _unparse(node: Scope) -> tuple[str, dict[str, str]]:
    """Return the source of a function with ``...`` for its defaults, and these by the names of the parameters."""
    if isinstance(node, ast.ClassDef):
        return ast.unparse(node), {}
    arguments = node.args
    positional, named = arguments.defaults, arguments.kw_defaults
    parameters = [*arguments.posonlyargs, *arguments.args]
    given = list(zip(parameters[len(parameters) - len(positional) :], positional, strict=True))
    given += [(arg, value) for arg, value in zip(arguments.kwonlyargs, named, strict=True) if value is not None]
    try:  # the tree is shared with the function around this one
        arguments.defaults = [ast.Constant(...)] * len(positional)
        arguments.kw_defaults = [value and ast.Constant(...) for value in named]
        text = ast.unparse(node)
    finally:
        arguments.defaults, arguments.kw_defaults = positional, named
    return text, {arg.arg: ast.unparse(value) for arg, value in given}


class Cell:
    """The functions and classes of one source text, by where they begin."""

    def __init__(self, source: str):
        self._scopes: dict[int, list[tuple[Scope, ast.stmt]]] = {}
        self._homes: dict[ast.AST, ast.ClassDef] = {}
        self._bodies: dict[ast.ClassDef, Body] = {}
        self._clean: set[ast.stmt] = set()
        for statement in ast.parse(source).body:
            for node in ast.walk(statement):
                if isinstance(node, Scope):
                    self._scopes.setdefault(_first_line(node), []).append((node, statement))
                if isinstance(node, ast.ClassDef):
                    self._homes.update((inner, node) for inner in node.body)

    def find(self, code: types.CodeType) -> Scope | None:
        """Return the node that a piece of code was compiled from, cleaned."""
        found = self._scopes.get(code.co_firstlineno, [])
        if code.co_name == "<lambda>":
            found = _lambda_at(code, [(node, statement) for node, statement in found if isinstance(node, ast.Lambda)])
        else:
            found = [(node, s) for node, s in found if isinstance(node, Def) and node.name == code.co_name]
        if len(found) != 1:
            return None
        node, statement = found[0]
        if statement not in self._clean:
            self._clean.add(statement)
            _Cleaner().visit(statement)
        return node

    def home_of(self, node: ast.AST) -> ast.ClassDef | None:
        """Return the class in whose body a function stands."""
        return self._homes.get(node)

    def body_of(self, node: ast.ClassDef) -> Body:
        """Return what a class says beside its functions."""
        if node not in self._bodies:
            head = [f"@{ast.unparse(decorator)}" for decorator in node.decorator_list]
            head += [f"{keyword.arg or '**'}={ast.unparse(keyword.value)}" for keyword in node.keywords]
            self._bodies[node] = Body(head, list(_statements(node)))
        return self._bodies[node]


def _first_line(node: Scope) -> int:
    if isinstance(node, ast.Lambda):
        return node.lineno
    return min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])


def _lambda_at(code: types.CodeType, found: list[tuple[Scope, ast.stmt]]) -> list[tuple[Scope, ast.stmt]]:
    """Tell the lambdas of one line apart: what one returns lies where the body of its source lies."""
    if len(found) < 2:
        return found
    places = set(code.co_positions())
    at: list[tuple[Scope, ast.stmt]] = []
    for node, statement in found:
        assert isinstance(node, ast.Lambda)
        body = node.body
        if (body.lineno, body.end_lineno, body.col_offset, body.end_col_offset) in places:
            at.append((node, statement))
    return at


def _statements(node: ast.ClassDef) -> Iterator[tuple[str | None, str]]:
    for statement in node.body:
        name = None
        if isinstance(statement, Def | ast.ClassDef):
            name = statement.name
        elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            name = statement.target.id
        elif isinstance(statement, ast.Assign) and len(statement.targets) == 1:
            target = statement.targets[0]
            name = target.id if isinstance(target, ast.Name) else None
        if not isinstance(statement, ast.Pass):
            yield name, ast.unparse(statement)


class _Cleaner(ast.NodeTransformer):
    """Takes out what does not run, in place: docstrings, annotations, the traces of formatting."""

    _makes_fields = False  # whether the annotations of this body make fields, as a dataclass's do

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        return self._function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        return self._function(node)

    def _function(self, node: Def) -> ast.AST:
        node.returns = None
        return self._body(node, False)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        return self._body(node, bool(node.decorator_list or node.bases or node.keywords))

    def _body(self, node: Def | ast.ClassDef, fields: bool) -> ast.AST:
        if getattr(node, "type_params", None):  # def f[T](…), Python 3.12
            node.type_params = []  # type: ignore[attr-defined,union-attr,unused-ignore]
        outer, self._makes_fields = self._makes_fields, fields
        self.generic_visit(node)
        self._makes_fields = outer
        return node

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        self.generic_visit(node)
        if self._makes_fields:
            node.annotation = ast.Constant(...)
            return node
        if node.value is None:
            return None
        return ast.copy_location(ast.Assign(targets=[node.target], value=node.value), node)

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        if isinstance(node.value, ast.Constant):
            return None  # a docstring, a `...`, a text in the place of a comment
        return self.generic_visit(node)

    def visit_Pass(self, node: ast.Pass) -> ast.AST | None:
        return None

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        node.kind = None  # u"" is ""
        return node

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        body = getattr(node, "body", None)
        if isinstance(body, list) and not body and not isinstance(node, ast.Module):
            body.append(ast.Pass())
        return node
