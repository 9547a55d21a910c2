"""Executors by name, as users write them."""

from __future__ import annotations

from sitq.errors import bad_type, bad_value
from sitq.executors.base import Executor

VERBS = ("open", "submit", "cancel", "close")


def as_executor(given: object) -> Executor | None:
    """Return an executor, also by its name, or say what it should be; None is the default one."""
    if given is None:
        return None
    if given == "process":
        from sitq.executors.process import ProcessExecutor

        return ProcessExecutor()
    if isinstance(given, str):
        raise bad_value("executor", given, "'process', or None for the event loop and threads")
    if isinstance(given, type) or not all(hasattr(given, verb) for verb in VERBS):
        raise bad_type("executor", given, "None, 'process' or an Executor, such as ProcessExecutor()")
    return given  # type: ignore[return-value]  # checked
