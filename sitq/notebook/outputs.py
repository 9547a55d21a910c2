"""What a task printed and displayed, printed and displayed again."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from sitq.reports import DISPLAY


def show(pieces: Sequence[tuple[str, str]]) -> None:
    """Print and display here what a task wrote.

    Parameters
    ----------
    pieces : sequence of (str, str)
        Stream and text, as :meth:`sitq.reports.Output.pieces` returns them. A display that was updated stands where it
        was first, as it was last.

    Examples
    --------
    >>> show([("stdout", "epoch 1"), ("stdout", " of 2")])
    epoch 1 of 2
    """
    bundles = [json.loads(text) if stream == DISPLAY else None for stream, text in pieces]
    newest = {bundle["id"]: bundle for bundle in bundles if bundle is not None and bundle["id"]}
    for (stream, text), bundle in zip(pieces, bundles, strict=True):
        if bundle is None:
            (sys.stderr if stream == "stderr" else sys.stdout).write(text)
        elif not bundle["id"]:
            _display(bundle)
        elif bundle["id"] in newest:
            _display(newest.pop(bundle["id"]))


def _display(bundle: dict[str, Any]) -> None:
    ipython = sys.modules.get("IPython")
    if ipython is None or ipython.get_ipython() is None:
        sys.stdout.write(f"{bundle['data'].get('text/plain', '<a display without text>')}\n")
        return
    from IPython.display import publish_display_data

    publish_display_data(bundle["data"], bundle["metadata"])  # type: ignore[no-untyped-call]
