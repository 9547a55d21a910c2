"""What users name a store by: a path, a URL or a Backend; and the checks of a serializer."""

from __future__ import annotations

import os
from typing import Any

from sitq.backends.base import Backend
from sitq.errors import InvalidArgument, bad_type
from sitq.serialization import Serializer


def as_backend(given: object, **options: Any) -> Backend:
    """Return the backend a user named; options are those of a backend that is made here.

    Raises
    ------
    InvalidType
        Neither a path, a URL nor a Backend.
    InvalidArgument
        An empty path, a folder, or the URL of a backend that does not exist.
    """
    if isinstance(given, Backend):
        return given
    if isinstance(given, str | os.PathLike):
        from sitq.backends.sqlite import SQLiteBackend

        text = os.fspath(given)
        if isinstance(text, str) and "://" in text:
            scheme = text.split("://")[0]
            if scheme != "sqlite":
                raise InvalidArgument(
                    f"backend: no backend for {scheme}://…; known are a path, ':memory:' and sqlite:///path"
                )
            given = text.removeprefix("sqlite:///") if text.startswith("sqlite:///") else ""
        return SQLiteBackend(given, **options)
    raise bad_type("backend", given, "a path such as 'sitq.db', a URL or a Backend")


def check_serializer(given: object) -> Serializer:
    """Return a serializer, or say what it lacks."""
    lacking = [
        verb
        for verb in ("dumps", "loads", "dump_function", "load_function")
        if not callable(getattr(given, verb, None))
    ]
    if isinstance(given, type) or lacking:
        missing = f"; it has no {', '.join(lacking)}" if lacking else "; make an object of it first"
        raise bad_type("serializer", given, f"a Serializer such as CloudpickleSerializer(){missing}")
    return given  # type: ignore[return-value]  # checked
