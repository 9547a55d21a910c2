"""What a retry runs: the notebook's own function, where it is another one than when it was stored."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from sitq.backends.base import Backend
from sitq.batch_rows import Code, NewVersion
from sitq.history import code_of, current, is_same_kind, what_changed
from sitq.packing import Packer, source_of
from sitq.replaying import in_notebook
from sitq.rows import Filter, StoredFunction
from sitq.saying import say


async def retry(backend: Backend, packer: Packer, tasks: Filter, func: Callable[..., Any] | None) -> int:
    """Put failed and cancelled tasks back, with this function or with the notebook's; see :meth:`TaskQueue.retry`."""
    if func is not None:
        return await backend.retry(tasks, _version(packer, func, code_of(func, None)))
    renewed = [  # all of them are looked at before the first is changed, since one may be refused
        (some, name, told, _version(packer, function, code))
        for some, name, told, function, code in await _differing(backend, tasks)
    ]
    changed = 0
    said: dict[str, tuple[int, str]] = {}
    for some, name, told, version in renewed:
        n = await backend.retry(some, version)
        changed += n
        said[name] = (said.get(name, (0, ""))[0] + n, told)
    for name, (n, told) in said.items():
        if n:
            runs = "1 task runs" if n == 1 else f"{n:,} tasks run"
            say(f"retry: {runs} {name} as the notebook has it now: {told}")
    return changed + await backend.retry(tasks, None)


def _version(packer: Packer, func: Callable[..., Any], code: Code) -> NewVersion:
    return NewVersion(packer.function(func), code, {}, True)


async def _differing(backend: Backend, tasks: Filter) -> list[tuple[Filter, str, str, Callable[..., Any], Code]]:
    """Return which of these tasks would run another function than the notebook has, its name, and what differs."""
    found = []
    for batch, number, lone in await backend.to_retry(tasks):
        if batch:
            before = current(await backend.versions(batch))
            stored, some = before.function, replace(tasks, batch=batch)
            now = _now(stored)
            if now is None or before.code.label is not None:  # with a word for it the user says what differs
                continue
            code = code_of(now, None)
            if code.digest == before.code.digest or not is_same_kind(before.code, code):
                continue
            told = what_changed(before, code, before.fixed)
        else:
            stored, some = await backend.function(number), Filter(numbers=lone)
            now = _now(stored)
            if now is None or source_of(inspect.unwrap(now)) in (None, stored.source):
                continue
            code, told = code_of(now, None), "its text differs"
        found.append((some, stored.name, told, now, code))
    return found


def _now(stored: StoredFunction) -> Callable[..., Any] | None:
    """Return what the notebook has under the name of a function of its own; objects that are called have no text."""
    return None if stored.source is None else in_notebook(stored.module, stored.name)
