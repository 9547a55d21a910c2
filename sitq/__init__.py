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
    from sitq.backends.base import Backend as Backend
    from sitq.backends.sqlite import SQLiteBackend as SQLiteBackend
    from sitq.batch import Batch as Batch
    from sitq.errors import Interrupted as Interrupted
    from sitq.errors import SitqError as SitqError
    from sitq.errors import TaskFailed as TaskFailed
    from sitq.errors import TaskNotFound as TaskNotFound
    from sitq.models import Counts as Counts
    from sitq.models import Result as Result
    from sitq.models import Status as Status
    from sitq.models import Task as Task
    from sitq.notebook import plots as plots
    from sitq.opening import open as open
    from sitq.params import grid as grid
    from sitq.queue import TaskQueue as TaskQueue
    from sitq.retry import RetryPolicy as RetryPolicy
    from sitq.serialization import CloudpickleSerializer as CloudpickleSerializer
    from sitq.serialization import JSONSerializer as JSONSerializer
    from sitq.sync import SyncTaskQueue as SyncTaskQueue
    from sitq.sync import open_sync as open_sync
    from sitq.worker import Worker as Worker

_HOME = {
    "Backend": "backends.base",
    "Batch": "batch",
    "CloudpickleSerializer": "serialization",
    "Counts": "models",
    "Interrupted": "errors",
    "JSONSerializer": "serialization",
    "Result": "models",
    "RetryPolicy": "retry",
    "SQLiteBackend": "backends.sqlite",
    "SitqError": "errors",
    "Status": "models",
    "SyncTaskQueue": "sync",
    "Task": "models",
    "TaskFailed": "errors",
    "TaskNotFound": "errors",
    "TaskQueue": "queue",
    "Worker": "worker",
    "grid": "params",
    "open": "opening",
    "open_sync": "sync",
    "plots": "notebook.plots",
}

# `open` is public too, but `from sitq import *` must not shadow the builtin.
__all__ = [  # found by __getattr__
    "Backend",
    "Batch",
    "CloudpickleSerializer",
    "Counts",
    "Interrupted",
    "JSONSerializer",
    "Result",
    "RetryPolicy",
    "SQLiteBackend",
    "SitqError",
    "Status",
    "SyncTaskQueue",
    "Task",
    "TaskFailed",
    "TaskNotFound",
    "TaskQueue",
    "Worker",
    "grid",
    "open_sync",
    "plots",
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


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
