"""A task that changes a global of the notebook, in real kernels."""

from pathlib import Path

import pytest

from tests.kernels import kernel

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

TASKS = {
    "loop": "async def count(x):\n    global counter\n    counter += x\n    seen.append(x)",
    "threads": "def count(x):\n    global counter\n    counter += x\n    seen.append(x)",
    "process": "def count(x):\n    global counter\n    counter += x\n    seen.append(x)",
}


@pytest.mark.parametrize("where", TASKS)
async def test_the_notebooks_global_stays_and_one_line_says_so(python: Path, where: str, tmp_path: Path) -> None:
    given = ", executor='process'" if where == "process" else ""
    async with kernel(python, tmp_path) as one:
        await one.run(f"import sitq\nqueue = await sitq.open('work.db', concurrency=1{given})\ncounter, seen = 0, []")
        await one.run(TASKS[where])
        told = await one.run("await queue.get_result(await queue.enqueue(count, 1)); print(counter, seen)")
        line, after = told.text.splitlines()
        assert line.startswith("count: each task changes copies of the globals 'counter', 'seen', the notebook's stays")
        assert after == "0 []"
        again = await one.run("await queue.get_result(await queue.enqueue(count, 1)); print(counter, seen)")
        assert again.text == "0 []\n"
        await one.shut_down()
