"""``%load_ext sitq``: ``%sitq`` shows the queues that are open here, or a database, and names of batches complete."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from IPython.core.completer import CompletionContext, SimpleCompletion, SimpleMatcherResult, context_matcher
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell

from sitq.backends.connecting import checked_path
from sitq.backends.sqlite import SQLiteBackend
from sitq.errors import SitqError
from sitq.glance import Glance, batch_names, glance
from sitq.opening import open_queues
from sitq.queue import TaskQueue
from sitq.sync import SyncTaskQueue

# What stands before the cursor where the name of a batch is asked for: in a verb of a queue, …
_IN_VERB = re.compile(r"""(\w+)\.(?:batch|counts|rename)\(\s*(?:batch\s*=\s*)?(['"])([^'"\\]*)$""")
# … as the name of a map, also some lines below its beginning, …
_IN_MAP = re.compile(r"""(\w+)(?:\.options\([^()]*\))?\.map\((?:(?!\.map\().)*\bname\s*=\s*(['"])([^'"\\]*)$""", re.S)
# … and in the reading of a file.
_IN_READ = re.compile(r"""\bread\(\s*(['"])([^'"\\]+)\1\s*,\s*(?:batch\s*=\s*)?(['"])([^'"\\]*)$""")
_LAST = 4000  # characters before the cursor that are looked at


class Glances:
    """What ``%sitq`` gives: as text in a terminal, as cards in a notebook."""

    def __init__(self, shown: list[Glance]):
        self.shown = shown

    def __repr__(self) -> str:
        return "\n\n".join(map(repr, self.shown)) or "no queue is open here: queue = await sitq.open(…), or %sitq PATH"

    def _repr_html_(self) -> str | None:
        return "".join(one._repr_html_() for one in self.shown) or None


def show(shell: InteractiveShell, line: str) -> Glances:
    """Show the databases of the queues that are open here; ``%sitq PATH`` shows that one.

    Raises
    ------
    UsageError
        There is no such database; one line says so, without a traceback.
    """
    path = line.strip().strip("'\"")
    try:
        if path:
            return Glances([glance(checked_path(path), path)])
        return Glances([glance(path, where) for path, where in dict(_open_here(shell)).items()])
    except SitqError as error:
        raise UsageError(str(error)) from None


def _open_here(shell: InteractiveShell) -> Iterator[tuple[Path, str]]:
    """Yield the files of the queues of ``sitq.open``, and of those that a name of the notebook stands for."""
    named = [_queue_of(value) for value in list(shell.user_ns.values())]
    for queue in [*open_queues(), *(queue for queue in named if queue is not None)]:
        if queue._state() == "connected" and isinstance(queue.backend, SQLiteBackend):
            yield queue.backend.path, queue.backend.where


def _queue_of(value: object) -> TaskQueue | None:
    return value._queue if isinstance(value, SyncTaskQueue) else value if isinstance(value, TaskQueue) else None


class Completer:
    """Completes the names of batches."""

    def __init__(self, shell: InteractiveShell):
        self._shell = shell

    @context_matcher(identifier="sitq.batches", priority=100)  # type: ignore[untyped-decorator]
    def match(self, context: CompletionContext) -> SimpleMatcherResult:
        """Offer the names that begin with what is typed; errors offer nothing."""
        lines = context.full_text.split("\n")[: context.cursor_line]
        before = "\n".join([*lines, context.text_until_cursor])[-_LAST:]
        try:
            path, quote, typed = self._asked(before)
            names = batch_names(path, typed) if path is not None else []
        except (SitqError, OSError):
            names = []
        # only what can stand in the literal as it is
        fitting = [name for name in names if name.isprintable() and not {quote, "\\"} & set(name)]
        found = [SimpleCompletion(text=name, type="batch") for name in fitting]
        return {"completions": found, "matched_fragment": typed, "suppress": bool(found), "ordered": True}

    def _asked(self, before: str) -> tuple[Path | None, str, str]:
        """Return the database whose batches are asked for, the quote that is open, and what follows it."""
        if found := _IN_READ.search(before):
            return checked_path(found[2]), found[3], found[4]
        found = _IN_VERB.search(before) or _IN_MAP.search(before)
        if found is None:
            return None, "", ""
        queue = _queue_of(self._shell.user_ns.get(found[1]))
        if queue is None or not isinstance(queue.backend, SQLiteBackend) or queue._state() != "connected":
            return None, "", ""
        return queue.backend.path, found[2], found[3]


_completers: dict[int, Any] = {}  # the bound matcher of each shell, by its id


def load(shell: InteractiveShell) -> None:
    """Give a shell ``%sitq`` and the completion of names."""
    shell.register_magic_function(lambda line: show(shell, line), "line", "sitq")  # type: ignore[arg-type]  # no method
    if shell.Completer is not None and id(shell) not in _completers:
        matcher = _completers[id(shell)] = Completer(shell).match
        shell.Completer.custom_matchers.append(matcher)


def unload(shell: InteractiveShell) -> None:
    """Take both away again."""
    shell.magics_manager.magics["line"].pop("sitq", None)
    matcher = _completers.pop(id(shell), None)
    if matcher is not None and shell.Completer is not None:
        shell.Completer.custom_matchers.remove(matcher)
