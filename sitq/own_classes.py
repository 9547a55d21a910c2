"""Classes of the notebook, which are stored by value: wherever one comes back, it is the one of the same content.

cloudpickle knows a class again by a number that it draws in each process. After a restart, or when a cell that defines
a class ran again, what was stored would come back as an instance of a namesake: ``isinstance()`` is False, a member of
an enum is not itself, and nothing says so. So classes are stored here with what they say, by two measures:

- A value that a person reads becomes an instance of the class that is here, if its source is the same. It stays as it
  is; cloudpickle would set its methods anew, with stored copies of the globals that they use.
- A call and everything that it gets become instances of one class, if source and all that its methods reach are the
  same. It is never the notebook's: a task runs what was stored.
"""

from __future__ import annotations

import hashlib
import sys
import threading
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary, WeakValueDictionary

from sitq.saying import say
from sitq.walking.looking import is_a, lineage_of, members_of, module_of, name_of, names_in

Reduced = tuple[Any, ...]


class Content(NamedTuple):
    """A class by its place and by what it says."""

    module: str
    name: str  # within the module
    source: bytes  # digest of it and its bases
    version: bytes  # digest of these and all that they reach


class Stranger(NamedTuple):
    """A class of a value that is not the one of this name here."""

    content: Content
    here: bool  # there is one of this name


_contents: WeakKeyDictionary[type, Content] = WeakKeyDictionary()
_made: WeakValueDictionary[Content, type] = WeakValueDictionary()  # from stored bytes
_lock = threading.Lock()
_strangers: ContextVar[set[Stranger] | None] = ContextVar("_strangers", default=None)  # None: nobody reads
_told: set[Stranger] = set()


# ---- to bytes ----
def with_content(kind: type, reduced: Any) -> Any:
    """Return how a class is stored, given how cloudpickle does it."""
    if type(reduced) is not tuple or len(reduced) != 6:  # by its name
        return reduced
    content = content_of(kind)
    if content is None:
        return reduced
    make, given, state, _, _, fill = reduced
    return restore, (content, make, (*given[:-2], None, given[-1])), (fill, state), None, None, restore_state


def content_of(kind: type) -> Content | None:
    """Return the content of a class, looked at once; None if it is no class that a module names."""
    known = _contents.get(kind)
    if known is None and found(module_of(kind), name_of(kind)) is kind:
        known = _contents[kind] = _look_at(kind)
    return known


def _look_at(kind: type) -> Content:
    from sitq.versions import version_of  # parses source; what only loads does without
    from sitq.walking.references import qualified

    version = version_of(kind)
    names = [qualified(module_of(base), name_of(base)) for base in lineage_of(kind)]
    digest = hashlib.blake2b(digest_size=16)
    for key, text in sorted(version.parts.items()):
        about = key.removeprefix("class ").removeprefix("function ").partition(" of ")
        if any(part == name or part.startswith(f"{name}.") for part in about[::2] for name in names):
            digest.update(f"\0{key}\0{text}".encode("utf-8", "backslashreplace"))
    return Content(module_of(kind), name_of(kind), digest.digest(), version.digest)


def found(module: str, name: str) -> Any:
    """Return what a module that is imported here has under a name, without running anybody's code."""
    home = sys.modules.get(module)
    held: Any = names_in(home) if is_a(home, types.ModuleType) else {}  # type: ignore[arg-type]
    value: Any = None
    for part in name.split("."):
        value = held.get(part)
        held = members_of(value) if is_a(value, type) else {}
    return value


# ---- from bytes ----
def restore(content: Content, make: Callable[..., type], given: tuple[Any, ...]) -> type:
    """Return the class of a stored content."""
    strangers = _strangers.get()
    if strangers is not None:
        here = found(content.module, content.name)
        known = content_of(here) if is_a(here, type) else None
        if known is not None and known.source == content.source:
            return here  # type: ignore[no-any-return]
        strangers.add(Stranger(content, here is not None))
    with _lock:
        made = _made.get(content)
        if made is None:
            made = _made[content] = make(*given)
            _contents[made] = content
        return made


def restore_state(kind: type, stored: tuple[Callable[[type, Any], object], Any]) -> None:
    """Give a class that came from bytes its members; the one that is here has its own."""
    fill, state = stored
    if found(module_of(kind), name_of(kind)) is not kind:
        fill(kind, state)


@contextmanager
def as_they_are_here() -> Iterator[set[Stranger]]:
    """Let what is loaded meanwhile be of the classes that are here; gives those that are not."""
    strangers: set[Stranger] = set()
    token = _strangers.set(strangers)
    try:
        yield strangers
    finally:
        _strangers.reset(token)


# ---- one line ----
class Strangers:
    """Counts results that hold classes other than those of this name here, and tells of each class once a kernel."""

    def __init__(self) -> None:
        self._met: dict[Stranger, list[datetime]] = {}

    @contextmanager
    def reading(self, finished_at: datetime) -> Iterator[None]:
        """Count a result that is loaded meanwhile."""
        with as_they_are_here() as strangers:
            yield
        for stranger in strangers:
            self._met.setdefault(stranger, []).append(finished_at)

    def tell(self) -> None:
        """Print a line for each class that was not told of yet."""
        for stranger, times in sorted(self._met.items()):
            if stranger not in _told:
                _told.add(stranger)
                say(_line(stranger, times))
        self._met.clear()


def _line(stranger: Stranger, times: list[datetime]) -> str:
    name = stranger.content.name
    many = len(times) > 1
    holders = f"{len(times):,} results hold" if many else "a result holds"
    then = f"{holders} {name} as it was when {'they' if many else 'it'} ran ({min(times):%Y-%m-%d %H:%M})"
    if not stranger.here:
        return f"{then}; there is no {name} here: run the cell that defines it first, and isinstance works"
    return (
        f"{then}; {name} has changed since: isinstance(value, {name}) is False. Run its map again with"
        ' on_change="all", or put the class into a module'
    )
