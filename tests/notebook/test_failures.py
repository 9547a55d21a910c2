"""Failures in real kernels: the names that they give to cells, and what is told of a crash."""

from pathlib import Path

import pytest

from tests.kernels import kernel

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

OPEN = 'import asyncio, ctypes, sitq\nqueue = sitq.TaskQueue("kernel.db")'
TRAIN = """
def train(x):
    y = x + 1
    raise ValueError(f"no {y}")
"""
RUN_ALL = """
async with sitq.Worker("kernel.db", concurrency=2):
    while (await queue.counts()).pending or (await queue.counts()).processing:
        await asyncio.sleep(0.01)
"""
ERRORS = """
for row in (await queue.errors()).itertuples():
    print(row.count, row.message, row.origin)
"""
CRASH = """
def crash():
    print("so far")
    ctypes.string_at(0)

async with sitq.Worker("kernel.db", executor="process"):
    result = await queue.get_result(await queue.enqueue(crash))
print(result.error.partition("; ")[2])
print(result.output)
"""


async def test_one_cause_in_two_kernels_is_one_row(python: Path, tmp_path: Path) -> None:
    async with kernel(python, tmp_path) as one, kernel(python, tmp_path) as two:
        for source in (OPEN, TRAIN, "for x in range(3): await queue.enqueue(train, x)", RUN_ALL):
            await one.run(source)
        await one.run("for x in range(4): await queue.enqueue(train, x)")
        for source in (OPEN, RUN_ALL):
            await two.run(source)
        told = await one.run("for text in (await queue.attempts(await queue.to_frame())).traceback: print(text)")
        named = [line.strip() for line in told.text.splitlines()]
        assert named.count("Cell In[2], line 3, in train") == 3
        assert named.count('File "<notebook>", line 3, in train') == 4
        for either in (one, two):
            assert (await either.run(ERRORS)).text == "7 no # train (Cell In[2], line 3)\n"


async def test_a_crash_in_a_runner_process_names_the_line_of_its_cell(python: Path, tmp_path: Path) -> None:
    async with kernel(python, tmp_path) as one:
        await one.run(OPEN)
        error, said, fatal, *stack = (await one.run(CRASH)).text.rstrip().splitlines()
    assert error == "the last one: the runner process was killed by SIGSEGV in crash (Cell In[2], line 3)"
    assert (said, fatal) == ("so far", "Fatal Python error: Segmentation fault")
    assert stack[-1] == "  Cell In[2], line 3 in crash"
