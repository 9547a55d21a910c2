"""sitq: a durable task queue that lives in a notebook.

The face is lazy: ``import sitq`` loads neither pandas, matplotlib nor ipywidgets, and most of sitq when it is first
used.

>>> import sitq
>>> len(sitq.grid(C=[0.1, 1.0], seed=range(3)))
6
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from sitq.version import __version__ as __version__

if TYPE_CHECKING:
    from sitq import plots as plots
    from sitq.backends.base import Backend as Backend
    from sitq.backends.sqlite import SQLiteBackend as SQLiteBackend
    from sitq.batch import Batch as Batch
    from sitq.building import once as once
    from sitq.current import current_task as current_task
    from sitq.distributions import loguniform as loguniform
    from sitq.errors import BatchPaused as BatchPaused
    from sitq.errors import CodeChanged as CodeChanged
    from sitq.errors import Interrupted as Interrupted
    from sitq.errors import SitqError as SitqError
    from sitq.errors import StaleResults as StaleResults
    from sitq.errors import TaskFailed as TaskFailed
    from sitq.errors import TaskNotFound as TaskNotFound
    from sitq.errors import TaskTimeout as TaskTimeout
    from sitq.executors.process import ProcessExecutor as ProcessExecutor
    from sitq.feeding import items as items
    from sitq.grids import grid as grid
    from sitq.grids import labels as labels
    from sitq.models import Counts as Counts
    from sitq.models import Status as Status
    from sitq.models import Task as Task
    from sitq.opening import open as open
    from sitq.queue import TaskQueue as TaskQueue
    from sitq.reading import read as read
    from sitq.results import Result as Result
    from sitq.retry import Retry as Retry
    from sitq.retry import RetryPolicy as RetryPolicy
    from sitq.serialization import CloudpickleSerializer as CloudpickleSerializer
    from sitq.serialization import JSONSerializer as JSONSerializer
    from sitq.serialization import by_value as by_value
    from sitq.sync import SyncTaskQueue as SyncTaskQueue
    from sitq.sync import open_sync as open_sync
    from sitq.worker import Worker as Worker

_HOME = {
    "Backend": "backends.base",
    "Batch": "batch",
    "BatchPaused": "errors",
    "CloudpickleSerializer": "serialization",
    "CodeChanged": "errors",
    "Counts": "models",
    "Interrupted": "errors",
    "JSONSerializer": "serialization",
    "ProcessExecutor": "executors.process",
    "Result": "results",
    "Retry": "retry",
    "RetryPolicy": "retry",
    "SQLiteBackend": "backends.sqlite",
    "SitqError": "errors",
    "StaleResults": "errors",
    "Status": "models",
    "SyncTaskQueue": "sync",
    "Task": "models",
    "TaskFailed": "errors",
    "TaskNotFound": "errors",
    "TaskQueue": "queue",
    "TaskTimeout": "errors",
    "Worker": "worker",
    "current_task": "current",
    "grid": "grids",
    "items": "feeding",
    "labels": "grids",
    "by_value": "serialization",
    "once": "building",
    "loguniform": "distributions",
    "open": "opening",
    "open_sync": "sync",
    "plots": "plots",
    "read": "reading",
}

# `open` is public too, but `from sitq import *` must not shadow the builtin.
__all__ = [  # found by __getattr__
    "Backend",
    "Batch",
    "BatchPaused",
    "CloudpickleSerializer",
    "CodeChanged",
    "Counts",
    "Interrupted",
    "JSONSerializer",
    "ProcessExecutor",
    "Result",
    "Retry",
    "RetryPolicy",
    "SQLiteBackend",
    "SitqError",
    "StaleResults",
    "Status",
    "SyncTaskQueue",
    "Task",
    "TaskFailed",
    "TaskNotFound",
    "TaskQueue",
    "TaskTimeout",
    "Worker",
    "by_value",
    "current_task",
    "grid",
    "items",
    "labels",
    "loguniform",
    "once",
    "open_sync",
    "plots",
    "read",
]


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        from sitq.errors import nearest

        raise AttributeError(f"module 'sitq' has no attribute {name!r}{nearest(name, _HOME)}")
    module = importlib.import_module(f"sitq.{home}")
    value = module if name == "plots" else getattr(module, name)
    globals()[name] = value
    return value


def load_ipython_extension(shell: Any) -> None:
    """``%load_ext sitq``: ``%sitq`` shows the queues that are open here, and names of batches complete."""
    from sitq.notebook.magics import load

    load(shell)


def unload_ipython_extension(shell: Any) -> None:
    """``%unload_ext sitq``."""
    from sitq.notebook.magics import unload

    unload(shell)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
