"""What the tests of queues and workers share."""

from collections.abc import AsyncIterator, Iterator

import matplotlib as mpl
import pytest

import sitq
import tests.stage
from tests.stage import Stage


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    """The stage of the tasks in :mod:`tests.stage`; whoever still waits there is let go in the end."""
    made = tests.stage.stage = Stage()
    yield made
    made.let_go()


@pytest.fixture
async def queue() -> AsyncIterator[sitq.TaskQueue]:
    """A queue on a store of its own; a test starts the workers it needs."""
    async with sitq.TaskQueue(sitq.SQLiteBackend(":memory:", durability="normal")) as made:
        yield made


@pytest.fixture
def clean_pyplot() -> Iterator[None]:
    """Draws into memory, and sees that no setting of matplotlib is changed."""
    from matplotlib import pyplot

    mpl.use("agg")
    settings = dict(mpl.rcParams)
    yield
    assert dict(mpl.rcParams) == settings
    pyplot.close("all")
