"""What a task displays in a runner process, as it would in the kernel.

``display`` needs IPython's shell, and only prints without one. It is made when a task first displays something: that
takes half a second, and most tasks never do.
"""

from __future__ import annotations

import builtins
import importlib.abc
import importlib.util
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from sitq.capture import watch_displays

HOME = "IPython.core.display_functions"


def provide() -> None:
    """Let ``display`` work, whether a task imports it or takes it for a builtin, as it is in a kernel."""
    if not hasattr(builtins, "display"):
        builtins.display = _display  # type: ignore[attr-defined]
        sys.meta_path.insert(0, _Finder())


def _display(*objects: Any, **more: Any) -> Any:
    from IPython.display import display

    return display(*objects, **more)  # type: ignore[no-untyped-call]


def _with_shell(display: Callable[..., Any]) -> Callable[..., Any]:
    """Return IPython's ``display``, which makes a shell first."""

    def with_shell(*objects: Any, **more: Any) -> Any:
        from IPython.core.interactiveshell import InteractiveShell

        if not InteractiveShell.initialized():
            _make_shell(InteractiveShell)
        return display(*objects, **more)

    return with_shell


def _make_shell(kind: Any) -> None:
    from traitlets.config import Config

    config = Config()
    config.HistoryManager.enabled = False  # no file of the user's is opened
    shell = kind.instance(config=config, user_module=sys.modules["__main__"])
    shell.display_formatter.formatters["image/png"].for_type_by_name("matplotlib.figure", "Figure", _png)
    watch_displays()


def _png(figure: Any) -> Any:
    from IPython.core.pylabtools import print_figure

    return print_figure(figure, "png")  # type: ignore[no-untyped-call]


class _Finder(importlib.abc.MetaPathFinder):
    """Waits for IPython, and changes what it displays with when a task imports it."""

    def find_spec(self, name: str, path: Any, target: ModuleType | None = None) -> Any:
        """Find the one module, once."""
        if name != HOME:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                module.display = _with_shell(module.display)  # type: ignore[attr-defined]

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
