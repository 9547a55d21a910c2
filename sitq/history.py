"""The versions of a batch: what tells them apart, what changed between them, and which results are stale."""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from sitq.batch_rows import BatchVersion, Code
from sitq.stale import from_what
from sitq.versions import CodeVersion, difference, in_one_line, version_of

MAX_DEFAULTS = 80  # characters of two defaults that are told
PARTIAL = "partial argument "  # before the name, or the place, of what a partial gives


def code_of(func: Callable[..., Any], label: str | None) -> Code:
    """Return what tells this function's versions apart: its code, or the user's word for it."""
    found = version_of(func)
    digest = found.digest if label is None else hashlib.blake2b(label.encode(), digest_size=16).digest()
    return Code(digest, label, found.to_json())


def fixed_json(digests: Mapping[str, bytes]) -> str:
    """Write the digests of fixed arguments as they are stored."""
    return json.dumps({name: digest.hex() for name, digest in sorted(digests.items())})


def is_stale(made: BatchVersion, code: Code, fixed: str) -> bool:
    """Whether what one version made may differ from what this code with these fixed arguments would make."""
    return made.code.digest != code.digest or (code.label is None and made.fixed != fixed)


def current(versions: Sequence[BatchVersion]) -> BatchVersion:
    """Return the version that new tasks of a batch run."""
    return next(version for version in versions if version.current)


def what_changed(before: BatchVersion, code: Code, fixed: str) -> str:
    """Say in one line what differs between a version and a later one."""
    if before.code.label != code.label:
        return f"version {_word(before.code)} → {_word(code)}"
    told = [f"fixed: {text}" for text in _changed_names(json.loads(before.fixed), json.loads(fixed))]
    if before.code.digest != code.digest:
        told.append(in_one_line(_walked(before.code), _walked(code)) or "the code changed")
    return "; ".join(told)


def _word(code: Code) -> str:
    return "of the code itself" if code.label is None else repr(code.label)


def _changed_names(before: Mapping[str, str], now: Mapping[str, str]) -> Iterable[str]:
    for name in {**before, **now}:
        if name not in now:
            yield f"{name} gone"
        elif name not in before:
            yield f"{name} new"
        elif before[name] != now[name]:
            yield f"{name} changed"


def changed_parameters(before: Code, now: Code) -> dict[str, str]:
    """Say what became of a function's parameters and their defaults, by name; empty where that cannot be read."""
    was_given, is_given = _given_by_partial(before), _given_by_partial(now)
    partial = {
        name: f"the partial's {name}{_from_to(was_given[name], is_given[name])}"
        for name in was_given.keys() & is_given.keys()
        if was_given[name] != is_given[name]
    }
    (old, old_defaults), (new, new_defaults) = _parameters(before), _parameters(now)
    if not old or not new:
        return partial
    told = {name: f"{name} is a new parameter, which ignore={name!r} leaves out" for name in new if name not in old}
    told |= {name: f"{name} is no parameter any more" for name in old if name not in new}
    for name in old_defaults.keys() & new_defaults.keys():
        was, is_now = old_defaults[name], new_defaults[name]
        if was != is_now:
            told[name] = f"the default of {name}{_from_to(was, is_now)}"
    return told


def _from_to(was: str, is_now: str) -> str:
    return f" was {was} and is {is_now}" if len(was + is_now) <= MAX_DEFAULTS else " is another one"


def _given_by_partial(code: Code) -> dict[str, str]:
    """Return what a partial gives by name or place, as its version tells it."""
    parts = _walked(code).parts.items()
    return {key.removeprefix(PARTIAL): text for key, text in parts if key.startswith(PARTIAL)}


def _parameters(code: Code) -> tuple[list[str], dict[str, str]]:
    """Return the parameters of a version's function, and the defaults of those that have a plain one."""
    parts = _walked(code).parts
    key = next(iter(parts), "")
    name = key.removeprefix("function ")
    try:
        (function,) = ast.parse(parts.get(key, "")).body
    except (SyntaxError, ValueError):  # a lambda, or cut
        return [], {}
    if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
        return [], {}
    given = function.args
    names = [one.arg for one in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    defaults = {one: parts.get(f"default of {name}: {one}") for one in names}
    return names, {one: text for one, text in defaults.items() if text is not None}


def _walked(code: Code) -> CodeVersion:
    return CodeVersion.from_json(code.digest, code.parts or "{}")


def is_same_kind(before: Code, now: Code) -> bool:
    """Whether both are of a function of the same name, and not one of it and one of something made with it."""
    kinds = [next(iter(_walked(code).parts), "") for code in (before, now)]
    return kinds[0] == kinds[1]


def ordinals(versions: Sequence[BatchVersion]) -> dict[int, int]:
    """Number the versions of a batch for people, from 1; rows that differ in nothing that counts share a number."""
    seen: dict[tuple[bytes, str], int] = {}
    found = {}
    for version in versions:
        key = (version.code.digest, "" if version.code.label is not None else version.fixed)
        found[version.number] = seen.setdefault(key, len(seen) + 1)
    return found


def told_stale(versions: Sequence[BatchVersion], stale: Mapping[int, int], needs: Sequence[str] = ()) -> str:
    """Say which results other code made than the current: ``120 by version 1: EPOCHS 10 → 20``.

    Parameters
    ----------
    stale : mapping
        Row numbers of versions, and how many results each made.
    needs : sequence of str
        Other batches whose stale results these were computed from.
    """
    now = current(versions)
    numbered = ordinals(versions)
    by_ordinal: dict[int, list[BatchVersion]] = {}
    for version in versions:
        if stale.get(version.number):
            by_ordinal.setdefault(numbered[version.number], []).append(version)
    told = []
    for ordinal, same in sorted(by_ordinal.items()):
        n = sum(stale[version.number] for version in same)
        if is_stale(same[-1], now.code, now.fixed):
            told.append(f"{n:,} by version {ordinal}: {what_changed(same[-1], now.code, now.fixed)}")
        else:
            told.append(f"{n:,} computed from {from_what(needs)}")
    return "; ".join(told)


def history(versions: Sequence[BatchVersion]) -> list[dict[str, Any]]:
    """Return the versions of a batch as rows of a frame, oldest first."""
    numbered = ordinals(versions)
    rows: list[dict[str, Any]] = []
    before: BatchVersion | None = None
    for version in versions:
        walked = _walked(version.code)
        if before is not None and numbered[version.number] <= max(row["version"] for row in rows):
            row = rows[numbered[version.number] - 1]  # the same code again
            row["tasks"] += version.tasks
            row["current"] = row["current"] or version.current
            continue
        rows.append(
            {
                "version": numbered[version.number],
                "created_at": version.created_at,
                "current": version.current,
                "tasks": version.tasks,
                "label": version.code.label,
                "changed": what_changed(before, version.code, version.fixed) if before else "",
                "difference": difference(_walked(before.code), walked) if before else "",
                "untracked": ", ".join(walked.untracked),
            }
        )
        before = version
    return rows
