"""The version of a function: what a person would call "my code", and what changed in it.

A version consists of parts, each a readable text: the source of the function and of every function and class of the
notebook or of local modules that it reaches, its defaults, what its closures hold, the globals it names that are plain
data. Comments, docstrings, annotations and formatting are no part of it. Installed packages count by name. It is the
same in every process and under every hash seed.

A function of an imported module is judged by its compiled form, since its file may be newer than what is loaded. Its
part shows the source all the same; the last line is a digest of the compiled form.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from sitq.snippets import snippets
from sitq.walking.walk import COMPILED, walk

MAX_STORED = 200_000  # bytes of the parts in the database
CAPS = (50_000, 10_000, 2_000, 400)  # characters of one part, the more of them the fewer
MAX_LINE = 120
MAX_SNIPPET = 40
CUT = "# cut, the whole is "
REST = "and the rest"


@dataclass(frozen=True)
class CodeVersion:
    """The version of a function.

    Attributes
    ----------
    digest : bytes
        16 bytes; equal if the code is the same.
    parts : dict of str
        What it consists of, such as ``{"function train": "def train(x): …", "global EPOCHS": "10"}``.
    untracked : tuple of str
        What the code uses and no version covers, such as ``"X (ndarray)"``.
    """

    digest: bytes
    parts: dict[str, str]
    untracked: tuple[str, ...]

    def to_json(self) -> str:
        """Return parts and untracked as JSON of at most 200 kB: long texts are cut, the digest is of the whole."""
        for cap in (None, *CAPS):
            parts = {key: _cut(text, cap) for key, text in self.parts.items()}
            text = _json(parts, self.untracked[:1000])
            if len(text.encode()) <= MAX_STORED:
                return text
        rest = hashlib.blake2b(digest_size=8)
        while len(text.encode()) > MAX_STORED:  # thousands of parts
            for key in list(parts)[len(parts) // 2 :]:
                rest.update(f"{key}\0{_judged(parts.pop(key))}\0".encode("utf-8", "backslashreplace"))
            text = _json({**parts, REST: f"\n{CUT}{rest.hexdigest()}"}, self.untracked[:100])
        return text

    @classmethod
    def from_json(cls, digest: bytes, text: str) -> CodeVersion:
        """Read what was stored; what cannot be read is empty, since it only explains the digest."""
        try:
            stored = json.loads(text)
            parts = {str(key): str(value) for key, value in stored["parts"].items()}
            return cls(digest, parts, tuple(map(str, stored["untracked"])))
        except (ValueError, LookupError, TypeError, AttributeError):
            return cls(digest, {}, ())


def version_of(function: Callable[..., Any]) -> CodeVersion:
    """Return the version of a function; never raises, and runs none of the user's code.

    Parameters
    ----------
    function : callable
        A function, method, partial, class or callable object.

    Examples
    --------
    >>> import functools
    >>> version_of(functools.partial(max, 3)).parts
    {'partial argument 1': '3', 'callable': 'builtins.max'}
    """
    label, parts, untracked = walk(function)
    hashed = hashlib.blake2b(label.encode("utf-8", "backslashreplace"), digest_size=16)
    for key in sorted(parts):
        hashed.update(f"\0{key}\0{_judged(parts[key])}".encode("utf-8", "backslashreplace"))
    return CodeVersion(hashed.digest(), parts, tuple(untracked))


def _judged(text: str) -> str:
    """Return by what a part is judged: its text, or the digest in its last line."""
    last = text[text.rfind("\n") + 1 :]
    return last if last.startswith((COMPILED, CUT)) else text


def _cut(text: str, cap: int | None) -> str:
    if cap is None or len(text) <= cap:
        return text
    judged = _judged(text)
    return f"{text[:cap]}\n{_whole(text)}" + (f"\n{judged}" if judged.startswith(COMPILED) else "")


def _whole(text: str) -> str:
    """Return the mark by which a text is known that was cut."""
    judged = _judged(text)
    if judged.startswith(CUT):
        return judged
    return CUT + hashlib.blake2b(text.encode("utf-8", "backslashreplace"), digest_size=8).hexdigest()


def _json(parts: dict[str, str], untracked: tuple[str, ...]) -> str:
    text = json.dumps({"parts": parts, "untracked": untracked}, ensure_ascii=False, separators=(",", ":"))
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


# ---- what changed ----
def in_one_line(before: CodeVersion, now: CodeVersion) -> str:
    r"""Return what changed in one loud line; empty if nothing did.

    Examples
    --------
    >>> before = CodeVersion(b"1", {"function train": "def train(x):\n    return x + 1", "global EPOCHS": "10"}, ())
    >>> now = CodeVersion(b"2", {"function train": "def train(x):\n    return x + 2", "global EPOCHS": "20"}, ())
    >>> in_one_line(before, now)
    'train: `x + 1` → `x + 2`; EPOCHS 10 → 20'
    """
    if before.digest == now.digest:
        return ""
    changes = list(_changes(before, now))
    # What comes and goes because of a change is not what a person calls the change.
    telling = [change for change in changes if not _is_minor(*change)] or changes
    texts = [_told(*change) for change in sorted(telling, key=lambda change: None in change)]
    line = (texts or ["its code changed"])[0]
    if len(line) > MAX_LINE:
        line = f"{line[: MAX_LINE - 1]}…"
    for i, text in enumerate(texts[1:], 1):
        if len(line) + len(text) + 2 > MAX_LINE:
            return f"{line}; and {len(texts) - i} more"
        line = f"{line}; {text}"
    return line


def difference(before: CodeVersion, now: CodeVersion) -> str:
    """Return what changed as text: a heading for each part, and the lines that went and came; empty if equal."""
    if before.digest == now.digest:
        return ""
    found = []
    for key, old, new in _changes(before, now):
        heading = f"{key}: new" if old is None else f"{key}: gone" if new is None else key
        lines = list(difflib.unified_diff(*_lines(old or "", new or ""), lineterm=""))[2:]
        found.append("\n".join([heading, *(lines or [_hidden(old or "", new or "")])]))
    return "\n\n".join(found) or "The code changed in a way that its parts do not show."


def _changes(before: CodeVersion, now: CodeVersion) -> Iterator[tuple[str, str | None, str | None]]:
    if REST in before.parts or REST in now.parts:
        before, now = (CodeVersion.from_json(version.digest, version.to_json()) for version in (before, now))
    for key in [*now.parts, *(key for key in before.parts if key not in now.parts)]:
        old, new = before.parts.get(key), now.parts.get(key)
        if old is None or new is None or not _same(old, new):
            yield key, old, new


def _same(old: str, new: str) -> bool:
    return _judged(old) == _judged(new) or _whole(old) == _whole(new)  # one of them may be cut


def _is_minor(key: str, old: str | None, new: str | None) -> bool:
    text = new if old is None else old
    return None in (old, new) and (key.startswith("cell ") or (text or "").startswith(("module ", "undefined")))


def _told(key: str, old: str | None, new: str | None) -> str:
    key = re.sub(r"[\w.<>]*<locals>\.", "", key)
    name = re.sub(r"^(function|class|global|cell) |(?<=^default) of .*:(?= )| of .*$|(?<=^partial) argument", "", key)
    if old is None:
        return f"{name}: new"
    if new is None:
        return f"{name}: gone"
    if "\n" not in old + new and not key.startswith(("function ", "class ")):
        told = snippets(old, new, MAX_SNIPPET)
        return f"{name} {told[0]} → {told[1]}" if told else f"{name} changed"
    olds, news = _lines(old, new)
    steps = [step for step in difflib.SequenceMatcher(None, olds, news).get_opcodes() if step[0] != "equal"]
    changed = sum(max(b - a, d - c) for _, a, b, c, d in steps)
    if not steps:
        return f"{name}: {_hidden(old, new)}"
    if changed == 1 and steps[0][0] == "replace":
        told = snippets(olds[steps[0][1]].strip(), news[steps[0][3]].strip(), MAX_SNIPPET)
        if told:
            old, new = (line.removeprefix("return ") for line in told) if _return_both(*told) else told
            return f"{name}: `{old}` → `{new}`"
    return f"{name}: {changed} line{'s' * (changed > 1)} changed"


def _return_both(old: str, new: str) -> bool:
    return old.startswith("return ") and new.startswith("return ")


def _lines(old: str, new: str) -> tuple[list[str], list[str]]:
    """Return the lines of two texts that both show."""
    shown = [re.split(f"\n(?={COMPILED}|{CUT})", text)[0] for text in (old, new)]
    if CUT in old + new:
        length = min(map(len, shown))
        shown = [text[:length] for text in shown] if old and new else shown
    return shown[0].split("\n") if old else [], shown[1].split("\n") if new else []


def _hidden(old: str, new: str) -> str:
    if CUT in old + new:
        return "changed beyond what is stored"
    return "compiled differently"
