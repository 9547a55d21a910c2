"""What the docs list is what the code has."""

import asyncio
import dataclasses
import inspect
import platform
import re
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import pytest

import sitq
from sitq import testing
from sitq.current import CurrentTask
from sitq.models import EDGES
from sitq.notebook import frames, over_time, records, stats
from sitq.notebook.tables import local_zone
from sitq.options import KNOWN
from tests.stage import LONG_S

DOCS = Path(__file__).parents[2] / "docs"


FRAMES = {
    "to_frame": frames.COLUMNS,
    "stats": stats.COLUMNS,
    "series": over_time.COLUMNS,
    "attempts": records.ATTEMPTS,
    "errors": records.ERRORS,
    "workers": records.WORKERS,
    "batches": records.BATCHES,
    "versions": records.VERSIONS,
}


def columns_in_docs(verb: str) -> list[tuple[str, str, str]]:
    text = (DOCS / "reference" / "frames.md").read_text()
    section = re.split(r"^## ", text.split(f"## `{verb}()`\n")[1], flags=re.M)[0]
    return re.findall(r"^\| `(\w+)` \| (\S+) \| (.+) \|$", section.rpartition("| column | type | says |")[2], re.M)


@pytest.mark.parametrize("verb", FRAMES)
def test_every_column_of_a_frame_is_documented_with_its_type(verb: str) -> None:
    assert columns_in_docs(verb) == [(name, dtype, says) for name, (dtype, says) in FRAMES[verb].items()]


async def test_every_frame_has_the_documented_columns_and_types_full_or_empty(queue: sitq.TaskQueue) -> None:
    kinds = {"text": str(pd.Series(["a"]).dtype), "time": f"datetime64[us, {local_zone()}]"}

    def documented(verb: str) -> list[tuple[str, str]]:
        return [(name, kinds.get(dtype, dtype)) for name, dtype, _ in columns_in_docs(verb)]

    def found(frame: pd.DataFrame) -> list[tuple[str, str]]:
        types = frame.dtypes.astype(str).items()
        return [(str(name), dtype) for name, dtype in types if not str(name).startswith(("param.", "result"))]

    async def look() -> dict[str, pd.DataFrame]:
        verbs = {name: getattr(queue, name) for name in FRAMES if name not in ("attempts", "versions")}
        return {name: await verb() for name, verb in verbs.items()}

    empty = await look() | {"attempts": await queue.attempts([])}
    batch = await queue.map(reciprocal, [0, 1], name="svc")
    async with sitq.Worker(queue.backend):
        await asyncio.wait_for(batch.wait(), LONG_S)
    full = await look() | {"attempts": await queue.attempts(batch), "versions": await batch.versions()}
    assert [name for name in full if full[name].empty] == []
    assert {name: len(empty[name]) for name in empty} == dict.fromkeys(empty, 0) | {"stats": 1, "workers": 1}
    for looked in (empty, full):
        assert {name: found(frame) for name, frame in looked.items()} == {name: documented(name) for name in looked}


def reciprocal(x: float) -> float:
    return 1 / x


def test_the_drawn_state_machine_is_the_coded_one() -> None:
    text = (DOCS / "explanation" / "state-machine.md").read_text()
    drawn = {(a, b) for a, b in re.findall(r"^    (\w+) --> (\w+):", text, re.M)}
    assert drawn == {(str(a), str(b)) for a, b in EDGES}


def rows(section: str) -> dict[str, str]:
    """The first cell of each row of a section's tables: name and signature."""
    text = (DOCS / "reference" / "api.md").read_text()
    part = re.split(r"\n##+ ", text.split(f" {section}\n")[1])[0]
    cells = re.findall(r"^\| `(\w+)(\(.*?\))?` \|", part, re.M)
    return dict(cells)


def signature(function: Callable[..., object], *, method: bool = True) -> str:
    parameters = [p.replace(annotation=p.empty) for p in inspect.signature(function).parameters.values()]
    return str(inspect.Signature(parameters[1:] if method else parameters))


def verbs(kind: type) -> dict[str, str]:
    """Public methods with their signatures, and properties without."""
    own = [base for base in reversed(kind.__mro__) if base.__module__.startswith("sitq")]
    return {
        name: signature(member) if callable(member) else ""
        for base in own
        for name, member in vars(base).items()
        if not name.startswith("_") and not isinstance(member, classmethod)
    }


@pytest.mark.parametrize("kind", [sitq.TaskQueue, sitq.Batch, sitq.Worker], ids=lambda kind: kind.__name__)
def test_every_verb_is_documented_with_its_signature(kind: type) -> None:
    own_business = {"say", "snapshot", "title"}  # what bars and messages ask of a batch
    assert rows(kind.__name__) == {name: told for name, told in verbs(kind).items() if name not in own_business}


def test_what_a_running_task_has_is_documented_with_its_signature() -> None:
    set_at_the_start = {"id": "", "attempt": "", "seed": ""}
    assert rows("Inside a task") == verbs(CurrentTask) | set_at_the_start


def test_every_option_is_documented() -> None:
    assert set(rows("Options")) == set(KNOWN)


def test_every_argument_of_a_map_is_documented() -> None:
    arguments = inspect.signature(sitq.TaskQueue.map).parameters.values()
    assert list(rows("Map")) == [argument.name for argument in arguments if argument.kind is argument.KEYWORD_ONLY]


def test_functions_and_classes_are_documented_with_their_signatures() -> None:
    text = (DOCS / "reference" / "api.md").read_text()
    for function in (sitq.open, sitq.open_sync, sitq.read, sitq.grid, sitq.labels, sitq.loguniform, sitq.once):
        assert f"`{function.__name__}{signature(function, method=False)}`" in text
    kinds = (sitq.TaskQueue, sitq.Worker, sitq.SyncTaskQueue, sitq.Retry, sitq.RetryPolicy, sitq.SQLiteBackend)
    for kind in (*kinds, sitq.ProcessExecutor):
        assert f"`{kind.__name__}{signature(kind.__init__)}`" in text
    for kind in (testing.InlineQueue, testing.SyncInlineQueue, testing.ManualClock):
        assert f"`{kind.__name__}{signature(kind.__init__)}`" in text
    drawn = {name: signature(getattr(sitq.plots, name), method=False) for name in sitq.plots.__all__}
    assert rows("Plots") == drawn


def test_every_field_of_a_record_is_documented() -> None:
    text = (DOCS / "reference" / "api.md").read_text()
    for kind in (sitq.Result, sitq.Task, sitq.Counts):
        line = next(line for line in text.splitlines() if line.startswith(f"| `{kind.__name__}` |"))
        fields = " ".join(field.name for field in dataclasses.fields(kind) if not field.name.startswith("_"))
        assert f"`{fields}`" in line
        listed = set(re.findall(r"\w+", " ".join(re.findall(r"`(.*?)`", line))))
        assert set(verbs(kind)) <= listed


def test_every_public_name_is_documented() -> None:
    text = (DOCS / "reference" / "api.md").read_text()
    assert [name for name in sitq.__all__ if not re.search(rf"`{name}\b|`sitq\.{name}\b|## {name}\b", text)] == []


def test_the_blocking_queue_has_the_verbs_of_the_awaited_one() -> None:
    assert set(verbs(sitq.SyncTaskQueue)) == set(verbs(sitq.TaskQueue)) | {"backend", "serializer", "lane", "worker"}


PLACES = [
    [cell.strip() for cell in line.split("|")[1:-1]]
    for line in (DOCS / "reference" / "everywhere.md").read_text().splitlines()
    if line.startswith("| ")
][1:]


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place[0])
def test_each_place_is_tried_by_tests_that_exist_with_a_version_that_is_installed(place: list[str]) -> None:
    _, tried_with, _, told = place
    tests = re.findall(r"`(\S+)::(\w+)`", told)
    assert tests
    for file, name in tests:
        assert re.search(rf"^(?:async )?def {name}\(", (DOCS.parent / "tests" / file).read_text(), re.M), name
    for package, told in re.findall(r"([a-z]+) (\d+)\.[\d.]+", tried_with):
        installed = platform.python_version() if package == "python" else version(package)
        assert installed.partition(".")[0] == told, f"try it again with {package} {installed}, then say so"


def test_every_test_of_a_place_stands_in_the_table() -> None:
    told = "".join(row[3] for row in PLACES)
    for file in ("browser/test_everywhere.py", "notebook/test_everywhere.py"):
        for name in re.findall(r"^(?:async )?def (test_\w+)", (DOCS.parent / "tests" / file).read_text(), re.M):
            assert f"`{file}::{name}`" in told
