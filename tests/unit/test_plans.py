"""How SQLite finds rows: what steers tasks does not read those that have ended, while it keeps others from writing."""

import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from sitq.backends.base import Backend
from sitq.backends.sqlite import SQLiteBackend
from sitq.models import Waits
from sitq.rows import Filter
from tests.storage import claim_one, completed, lose, new_tasks, registered, settled

VERBS: dict[str, Callable[[Backend, Filter], Awaitable[int]]] = {
    "cancel": lambda backend, tasks: backend.cancel(tasks),
    "prioritize": lambda backend, tasks: backend.prioritize(tasks, 7),
    "hold": lambda backend, tasks: backend.hold(tasks, Waits.PAUSED, True),
    "let go": lambda backend, tasks: backend.hold(tasks, Waits.PAUSED, False),
    "let go and take over": lambda backend, tasks: backend.hold(tasks, Waits.PAUSED, False, 1),
    "hold what was left": lambda backend, tasks: backend.hold_left("default"),
}
WHOSE = {"lane": Filter(lane="default"), "all": Filter(), "numbers": Filter(numbers=[1, 2, 3])}


async def plans(path: Path, verb: Callable[[Backend], Awaitable[int]]) -> list[str]:
    """How the statements of a verb find the rows of tasks; those of the writer, since readers keep nobody waiting."""
    statements: list[str] = []
    backend = SQLiteBackend(path, durability="normal")
    await backend.open()
    await backend.enqueue(new_tasks(3))
    assert backend._open.writer.transactions.connection is not None
    backend._open.writer.transactions.connection.set_trace_callback(statements.append)
    await verb(backend)
    await backend.close()
    connection = sqlite3.connect(path)
    found = []
    for statement in statements:
        if "tasks" in statement.split("json_each")[0] and not statement.startswith(("PRAGMA", "--")):
            found += [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}")]
    connection.close()
    return [plan for plan in found if "tasks" in plan]


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("whose", WHOSE)
async def test_steering_reads_no_task_that_has_ended(tmp_path: Path, verb: str, whose: str) -> None:
    found = await plans(tmp_path / "t.db", lambda backend: VERBS[verb](backend, WHOSE[whose]))
    assert found
    assert [plan for plan in found if "USING" not in plan] == []  # an index of those that wait, or their numbers


@pytest.mark.parametrize("verb", ["hold", "let go", "cancel", "prioritize"])
async def test_steering_a_batch_reads_this_batch(tmp_path: Path, verb: str) -> None:
    found = await plans(tmp_path / "t.db", lambda backend: VERBS[verb](backend, Filter(batch=1)))
    assert found
    for plan in found:
        assert "(batch=?)" in plan or "tasks_processing" in plan
    assert any("tasks_processing" in plan for plan in found) == (verb in ("cancel", "hold"))
    if verb == "let go":
        assert all("tasks_waiting" in plan for plan in found)


async def test_a_purge_looks_for_tasks_outside_of_its_transactions(tmp_path: Path) -> None:
    async def purge(backend: Backend) -> int:
        await backend.cancel(Filter(numbers=[1, 2]))
        assert await backend.purge(Filter(lane="default"), 2**62) == 2
        return 2

    found = await plans(tmp_path / "t.db", purge)
    assert found
    assert [plan for plan in found if "USING" not in plan] == []


async def test_a_purge_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sitq.backends.writing.PURGE_AT_ONCE", 10)
    monkeypatch.setattr("sitq.backends.writing.PURGE_LOOK", 30)
    backend = SQLiteBackend(tmp_path / "t.db", durability="normal")
    await backend.open()
    await backend.enqueue(new_tasks(100))
    await backend.enqueue(new_tasks(100, lane="b"))
    await backend.cancel(Filter())
    session = await registered(backend)
    await backend.enqueue(new_tasks())
    await claim_one(backend, session)
    looks: list[int] = []
    read = backend._open.read

    async def spy(sql: str, values: Sequence[Any]) -> list[Any]:
        looks.append(values[0])
        return await read(sql, values)

    monkeypatch.setattr(backend._open, "read", spy)
    assert await backend.purge(Filter(lane="b")) == 100
    assert looks == [0, 130, 160, 190, 200]
    monkeypatch.undo()
    assert await backend.purge(Filter()) == 100
    assert await backend.numbers(Filter()) == [201]
    await backend.close()


async def test_a_look_for_tasks_with_a_loss_reads_only_those(tmp_path: Path) -> None:
    async def look(backend: Backend) -> int:
        first = await registered(backend)
        await claim_one(backend, first)
        await lose(backend, first)
        session = await registered(backend)
        await settled(backend)
        backend._open.caches.due_until = 0  # type: ignore[attr-defined]  # as after a second
        await backend.complete(session, [completed(await claim_one(backend, session))])
        return 1

    found = [plan for plan in await plans(tmp_path / "t.db", look) if "tasks_lossy" in plan]
    assert "SEARCH tasks USING INDEX tasks_lossy (lane=?)" in found  # whether one waited too long
    assert "SCAN tasks USING INDEX tasks_lossy" in found  # whether there is one
