"""Every example in a docstring of the package does what it says."""

import asyncio
import doctest
import importlib
import pkgutil
import warnings
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import pytest

import sitq

# What a reader has at hand: the public names, and asyncio for examples that await. All else an example imports.
AT_HAND = {"asyncio": asyncio, "sitq": sitq, **{name: getattr(sitq, name) for name in sitq.__all__}}


def examples() -> Iterator[doctest.DocTest]:
    finder = doctest.DocTestFinder(exclude_empty=True)
    for found in pkgutil.walk_packages(sitq.__path__, "sitq."):
        module = importlib.import_module(found.name)
        yield from finder.find(module, extraglobs=AT_HAND)
    yield from finder.find(sitq, "sitq", extraglobs=AT_HAND)


EXAMPLES = [example for example in examples() if example.examples]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_a_docstrings_example_does_what_it_says(
    example: doctest.DocTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # some make a database
    told: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    with warnings.catch_warnings(), matplotlib.rc_context():
        warnings.simplefilter("error")
        runner.run(example, out=told.append)
    assert runner.failures == 0, "".join(told)


def test_the_verbs_that_users_meet_first_have_examples() -> None:
    named = {example.name for example in EXAMPLES}
    assert {"sitq.queue.TaskQueue", "sitq.opening.open", "sitq.worker.Worker", "sitq.grids.grid"} <= named
