"""The shape of the house: what may import what, what `import sitq` costs, what is public."""

import ast
import graphlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import sitq

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "sitq"

# Each module and those it stands on; it may import them and whatever they stand on, and nothing else of sitq.
# `import sitq` itself, the public face, is nobody's to import.
STANDS_ON = {
    "version": (),
    "errors": (),
    "loops": (),
    "awaiting": ("errors",),
    "clock": ("errors",),
    "reports": (),
    "rows": ("reports",),
    "batch_rows": ("rows",),
    "models": ("errors", "rows"),
    "snapshots": ("models",),
    "checks": ("durations",),
    "durations": ("errors",),
    "retry": ("models", "durations"),
    "own_classes": ("versions", "saying"),
    "serialization": ("retry", "refs", "own_classes"),
    "sealing": ("retry",),
    "checkpoints": ("sealing", "reports"),
    "ids": ("errors",),
    "refs": (),
    "params": ("refs",),
    "readonly": (),
    "distributions": ("errors",),
    "grids": ("params", "checks", "distributions"),
    "canonical": ("params", "refs"),
    "content": ("canonical", "refs"),
    "identity": ("canonical", "errors"),
    "packing": ("serialization", "content", "rows", "lost_changes", "carried", "saying"),
    "lost_changes": ("walking.reached", "saying"),
    "carried": ("walking.reached",),
    "tracebacks": (),
    "context": ("reports",),
    "current": ("context", "params", "checks", "clock"),
    "capture": ("context",),
    "call": ("awaiting", "capture", "packing", "context", "tracebacks", "clock", "readonly"),
    "completing": ("call", "clock"),
    "rules": ("batch_rows", "failures", "errors"),
    "saying": (),
    "selection": ("ids", "results"),
    "replaying": ("unpacking", "packing", "selection", "saying"),
    "options": ("awaiting", "checks", "retry", "mapping"),
    "backends": (),
    "backends.base": ("batch_rows", "ids", "sealing", "models"),
    "backends.sharing": ("backends.group",),
    "backends.copying": ("backends.sharing",),
    "backends.guard": ("backends.base",),
    "backends.queries": ("backends.base",),
    "backends.columns": (),
    "backends.schema": ("backends.base",),
    "backends.units": ("loops",),
    "backends.checkpointing": (),
    "backends.translating": ("errors",),
    "backends.committing": ("backends.translating",),
    "backends.inbox": ("backends.units", "errors"),
    "backends.transacting": ("backends.committing", "backends.units"),
    "backends.inlining": ("backends.checkpointing", "backends.inbox", "backends.transacting", "interrupts"),
    "backends.writer": ("backends.inlining", "clock", "models"),
    "backends.connecting": ("backends.schema", "backends.committing"),
    "backends.changes": (),
    "backends.group": ("backends.base", "backends.changes", "backends.queries", "clock"),
    "backends.filtering": ("rows",),
    "backends.repeating": ("backends.group",),
    "backends.coding": ("backends.group",),
    "backends.depending": ("backends.repeating",),
    "backends.ruling": ("backends.filtering", "backends.group", "rules"),
    "backends.telling": ("backends.group", "checkpoints"),
    "backends.limiting": ("backends.group",),
    "backends.releasing": ("backends.coding", "backends.repeating", "backends.ruling", "backends.units"),
    "backends.claiming": ("backends.limiting",),
    "backends.completing": ("backends.limiting", "backends.releasing", "backends.telling"),
    "backends.steering": ("backends.coding", "backends.repeating", "backends.ruling"),
    "backends.batching": (
        "backends.depending",
        "backends.limiting",
        "backends.sharing",
        "backends.steering",
    ),
    "backends.enqueueing": ("backends.batching", "backends.claiming", "backends.committing"),
    "backends.living": ("backends.enqueueing", "backends.releasing"),
    "backends.heart": ("backends.connecting", "backends.guard", "backends.group", "backends.queries"),
    "backends.readers": ("backends.translating", "loops"),
    "backends.opened": (
        "backends.connecting",
        "backends.guard",
        "backends.enqueueing",
        "backends.readers",
        "backends.telling",
        "backends.writer",
    ),
    "backends.lately": ("backends.base", "backends.changes", "backends.queries"),
    "backends.earlier": ("backends.queries",),
    "backends.measuring": ("backends.filtering", "backends.opened", "backends.queries"),
    "backends.paging": ("backends.columns", "backends.filtering", "backends.queries"),
    "backends.reading": (
        "backends.earlier",
        "backends.lately",
        "backends.limiting",
        "backends.measuring",
        "backends.paging",
    ),
    "backends.writing": ("backends.completing", "backends.reading"),
    "backends.sqlite": ("backends.copying", "backends.heart", "backends.living", "backends.writing", "durations"),
    "executors": (),
    "executors.base": ("call",),
    "executors.local": ("executors.base", "loops"),
    "executors.frames": ("context",),
    "executors.displaying": ("capture",),
    "executors.guarding": (),
    "executors.runner": ("executors.displaying", "executors.frames", "executors.guarding", "call"),
    "executors.surroundings": ("walking.homes",),
    "executors.outside": ("failures", "tracebacks"),
    "executors.keeper": (
        "executors.frames",
        "executors.outside",
        "executors.surroundings",
        "call",
    ),
    "executors.process": ("executors.base", "executors.keeper", "checks", "loops"),
    "executors.choosing": ("executors.process",),
    "liveness": ("rows",),
    "session": ("backends.base", "liveness", "loops", "version", "clock"),
    "waiters": ("backends.base", "loops"),
    "events": ("backends.base", "loops", "clock"),
    "callbacks": ("events",),
    "stores": ("backends.sqlite", "serialization"),
    "backends.visiting": ("backends.connecting", "backends.schema"),
    "reading": ("backends.visiting", "backends.columns", "backends.queries", "checks", "ids"),
    "glance": ("backends.visiting", "backends.queries", "liveness", "overview"),
    "results": ("backends.base", "serialization"),
    "interrupts": ("errors", "loops"),
    "unpacking": ("results", "call", "checkpoints", "loops"),
    "telling": ("loops", "models", "params"),
    "storing": ("telling", "unpacking"),
    "slots": ("storing", "completing", "executors.base", "loops"),
    "life": ("session", "slots"),
    "worker": ("awaiting", "life", "stores", "executors.choosing", "executors.local", "checks"),
    "watching": ("backends.base", "loops"),
    "plotting": ("awaiting", "errors"),
    "walking": (),
    "walking.looking": (),
    "walking.plain": ("walking.looking",),
    "walking.bytecode": ("walking.plain",),
    "walking.source": ("walking.bytecode",),
    "walking.homes": ("walking.looking",),
    "walking.classes": ("walking.homes", "walking.source"),
    "walking.reached": ("walking.classes",),
    "walking.references": ("walking.homes", "walking.plain"),
    "walking.walk": ("walking.classes", "walking.references"),
    "snippets": (),
    "versions": ("snippets", "walking.walk"),
    "building": ("versions", "errors"),
    "stale": ("backends.base", "saying"),
    "history": ("batch_rows", "stale", "versions"),
    "progress": ("snapshots", "history", "rules", "clock", "overview", "life", "durations"),
    "ordered": ("refs", "saying"),
    "gathering": (
        "ordered",
        "awaiting",
        "plotting",
        "rules",
        "watching",
        "results",
        "interrupts",
        "checks",
        "clock",
        "saying",
    ),
    "surveying": ("ordered", "awaiting", "history", "results"),
    "batch": ("gathering", "surveying", "progress"),
    "taking": ("history", "models", "rules", "saying"),
    "stopping": ("rules", "watching"),
    "feeding": ("selection",),
    "rates": ("backends.base", "durations", "saying"),
    "mapping": ("batch", "interrupts", "feeding", "taking", "stopping", "packing", "identity", "rates"),
    "connected": ("awaiting", "session", "waiters"),
    "renewing": ("history", "packing", "replaying", "saying"),
    "steering": ("connected", "renewing", "packing", "checks", "selection"),
    "failures": ("ids", "rows"),
    "framing": ("awaiting", "connected", "checks", "failures", "liveness", "results", "selection"),
    "overview": ("backends.base",),
    "estimating": (),
    "forecasting": ("estimating", "mapping", "overview"),
    "recent": ("backends.base",),
    "alerts": ("recent", "callbacks", "checks"),
    "alarming": ("alerts", "clock"),
    "sights": ("recent", "overview", "clock"),
    "observing": ("steering", "alarming", "sights"),
    "enqueueing": ("awaiting", "checks", "connected", "packing", "params", "rates", "selection"),
    "asking": ("awaiting", "checks", "connected", "interrupts", "overview", "results", "selection"),
    "tending": ("asking",),
    "displayed": ("connected", "overview"),
    "queue": (
        "observing",
        "framing",
        "enqueueing",
        "tending",
        "displayed",
        "forecasting",
        "replaying",
        "stores",
        "options",
    ),
    "opening": ("queue", "worker"),
    "portal": ("errors", "loops", "saying"),
    # For tests of users; nothing stands on it.
    "testing.clocks": ("clock", "durations", "loops"),
    "testing.inline": ("queue", "worker", "testing.clocks"),
    "testing.sync_inline": ("sync", "testing.inline"),
    "testing.fixtures": ("testing.sync_inline",),
    "testing": ("testing.sync_inline",),
    "standstill": ("life",),
    "sync_batch": ("batch", "standstill"),
    "sync_events": ("errors", "standstill"),
    "sync": ("opening", "portal", "sync_batch", "sync_events"),
    # Draws records and knows nothing of queues, so that a frame of somebody else's file needs none of the rest.
    "notebook": (),
    "notebook.words": (),
    "notebook.pieces": ("notebook.words",),
    "notebook.html": ("notebook.pieces", "errors"),
    "notebook.cards": ("notebook.html",),
    "notebook.record_cards": ("notebook.cards",),
    "notebook.forecast_cards": ("notebook.cards",),
    "notebook.glance_cards": ("notebook.cards",),
    "notebook.frontend": ("errors",),
    "notebook.outputs": ("reports",),
    "notebook.showing": ("notebook.frontend", "loops"),
    # What a shell loads by `%load_ext sitq`; it alone knows queues.
    "notebook.magics": ("glance", "sync", "notebook.cards"),
    "notebook.alarms": ("notebook.frontend", "notebook.pieces"),
    "notebook.unfolding": (),
    "notebook.kinds": ("models", "notebook.pieces", "notebook.unfolding", "notebook.words"),
    "notebook.buttons": ("notebook.words", "notebook.kinds", "snapshots"),
    "notebook.stalls": ("notebook.frontend", "notebook.words"),
    "notebook.bars": ("notebook.buttons", "notebook.stalls", "notebook.html"),
    "notebook.controls": ("notebook.unfolding",),
    "notebook.monitor_html": ("notebook.alarms",),
    "notebook.monitor": ("notebook.bars", "notebook.controls", "notebook.monitor_html"),
    "notebook.tables": (),
    "notebook.frames": ("models", "notebook.tables"),
    "notebook.metrics": ("notebook.frames",),
    "notebook.records": ("batch_rows", "failures", "notebook.tables"),
    "notebook.stats": ("notebook.frames",),
    "notebook.over_time": ("models", "notebook.tables"),
    # Draws frames, as the notebook's modules draw records.
    "plots.axes": ("notebook.words",),
    "plots.scales": ("plots.axes",),
    "plots.canvas": ("notebook.frames", "plots.axes"),
    "plots.gantt": ("plots.canvas", "notebook.pieces"),
    "plots.times": ("plots.axes", "plots.canvas", "notebook.pieces"),
    "plots.rates": ("plots.canvas", "notebook.pieces", "durations"),
    "plots.cells": ("plots.axes", "plots.canvas"),
    "plots.pareto": ("plots.canvas", "notebook.pieces"),
    "plots.curves": ("plots.canvas", "plots.scales"),
    "plots.effects": ("plots.canvas", "plots.scales"),
    "plots.parallels": ("plots.effects",),
    "plots": (
        "plots.cells",
        "plots.curves",
        "plots.gantt",
        "plots.parallels",
        "plots.pareto",
        "plots.rates",
        "plots.times",
    ),
    "plots.live": ("loops", "models", "notebook.frontend"),
}

# These reach the notebook's modules, and only inside a function: pandas and its kin load when they are first needed.
REACH_THE_NOTEBOOK_LAZILY = {
    "alarming",
    "alerts",
    "observing",
    "batch",
    "surveying",
    "plotting",
    "reading",
    "sync_batch",
    "forecasting",
    "glance",
    "models",  # a record draws itself; the circle test keeps what it reaches from knowing records
    "results",
    "framing",
    "asking",
    "displayed",
    "sync",
    "worker",
}

PUBLIC_NAMES = [
    "Backend",
    "Batch",
    "BatchPaused",
    "CloudpickleSerializer",
    "Counts",
    "Interrupted",
    "JSONSerializer",
    "ProcessExecutor",
    "Result",
    "Retry",
    "RetryPolicy",
    "SQLiteBackend",
    "SitqError",
    "Status",
    "SyncTaskQueue",
    "Task",
    "TaskFailed",
    "TaskNotFound",
    "TaskQueue",
    "TaskTimeout",
    "Worker",
    "current_task",
    "grid",
    "items",
    "labels",
    "loguniform",
    "by_value",
    "once",
    "open_sync",
    "plots",
    "read",
    "StaleResults",
    "CodeChanged",
]


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}
FACE = ""  # sitq/__init__.py, which may import everything


def imports(module: str) -> Iterator[tuple[str, bool]]:
    """The modules of sitq that a module imports, and whether it does so only inside a function.

    Imports for annotations alone (`if TYPE_CHECKING:`) run nothing and are no arrows.
    """
    path = MODULES[module]
    package = ["sitq", *path.relative_to(PACKAGE).parent.parts]

    def visit(node: ast.AST, inside_function: bool) -> Iterator[tuple[str, bool]]:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            targets = [f"{base}.{alias.name}" for alias in node.names]
        else:
            targets = []
        for target in targets:
            parts = target.split(".")
            if parts[0] == "sitq":
                inner = parts[1:]
                # `from sitq.errors import SitqError` names what is inside a module.
                while ".".join(inner) not in MODULES:
                    inner = inner[:-1]
                yield ".".join(inner), inside_function
        for child in ast.iter_child_nodes(node):
            yield from visit(child, inside_function or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))

    yield from visit(ast.parse(path.read_text(encoding="utf-8")), False)


def all_below(module: str) -> set[str]:
    below = set(STANDS_ON[module])
    return below.union(*(all_below(lower) for lower in below))


def test_the_table_has_no_circles() -> None:
    graphlib.TopologicalSorter(STANDS_ON).prepare()


@pytest.mark.parametrize("module", [name for name in MODULES if name != FACE])
def test_arrows_point_down_only(module: str) -> None:
    assert module in STANDS_ON, f"sitq/{module}: give the new module its place in STANDS_ON"
    allowed = all_below(module) | {module}
    for target, inside_function in imports(module):
        lazy = inside_function and module in REACH_THE_NOTEBOOK_LAZILY and target.split(".")[0] in ("notebook", "plots")
        assert lazy or target in allowed, f"{module} imports {target or 'the face'}, which is not below it"


def test_there_are_no_circles_even_inside_functions() -> None:
    graph = {module: {target for target, _ in imports(module)} for module in MODULES if module != FACE}
    graphlib.TopologicalSorter(graph).prepare()


def test_import_sitq_loads_no_heavy_library() -> None:
    heavy = {"pandas", "matplotlib", "ipywidgets", "IPython"}
    loaded = subprocess.check_output([sys.executable, "-c", "import sys, sitq; print(*sys.modules)"], text=True).split()
    assert heavy.isdisjoint(loaded)


def test_the_public_names_are_these() -> None:
    assert sorted(sitq.__all__) == sorted(PUBLIC_NAMES)
    for name in PUBLIC_NAMES:
        assert getattr(sitq, name).__name__.rpartition(".")[2] == name


def test_open_is_public_but_never_shadows_the_builtin() -> None:
    assert callable(sitq.open)
    assert "open" not in sitq.__all__


def test_no_file_names_a_folder_of_the_machine_it_was_made_on() -> None:
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.check_output(listed, cwd=ROOT, text=True).split("\0")
    files = [ROOT / name for name in names if name and (ROOT / name).is_file()]
    assert files
    folder = re.compile(rb"/(work|root)/")
    assert [path for path in files if folder.search(path.read_bytes())] == []
