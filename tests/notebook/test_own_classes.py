"""Values of the notebook's own classes, in real kernels: restarted, and with a class that changed."""

from pathlib import Path

import pytest

from tests.kernels import kernel

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

CLASSES = """
import dataclasses, enum
class Mode(enum.Enum):
    FAST = 1
@dataclasses.dataclass
class Point:
    x: int
    mode: Mode = Mode.FAST
"""
TASK = """
def make(x, wanted):
    print(wanted is Mode.FAST)
    return {"point": Point(x), "wanted": wanted}
"""
MAP = """
batch = await queue.map(make, range({}), fixed={{"wanted": Mode.FAST}}, name="points")
values = await batch.values()
"""
LOOK = """
print(all(isinstance(value["point"], Point) for value in values),
      all(value["point"].mode is value["wanted"] is Mode.FAST for value in values))
print({result.output for result in await batch.results()})
"""
FINE = "True True\n{'True\\n'}\n"


@pytest.mark.parametrize("executor", ["loop", "process"])
async def test_values_are_of_the_notebooks_classes_after_a_restart_until_these_change(
    python: Path, executor: str, tmp_path: Path
) -> None:
    given = "" if executor == "loop" else ", executor='process'"
    opened = f"import sitq\nqueue = await sitq.open('work.db', concurrency=1{given})"
    for points in (3, 5):  # the second kernel has new tasks with the fixed argument of the first
        async with kernel(python, tmp_path) as one:
            for source in (opened, CLASSES, TASK, MAP.format(points)):
                await one.run(source)
            assert (await one.run(LOOK)).text == FINE
            await one.run(CLASSES)  # the same cell once more
            await one.run("values = await batch.values()")
            assert (await one.run(LOOK)).text == FINE
            await one.shut_down()
    async with kernel(python, tmp_path) as one:
        await one.run(opened)
        told = await one.run("batch = await queue.batch('points'); print((await batch.values())[1]['point'].x)")
        lines = told.text.splitlines()
        assert [line.partition(" as it was")[0] for line in lines[:-1]] == [
            "5 results hold Mode",
            "5 results hold Point",
        ]
        assert all("there is no" in line for line in lines[:-1])
        assert lines[-1] == "1"
        await one.run(CLASSES.replace("x: int", "x: int\n    y: int = 0"))
        told = await one.run("values = await batch.values(); values = await batch.values()")
        assert told.text.startswith("5 results hold Point as it was when they ran (")
        assert told.text.count("\n") == 1
        assert "Point has changed since: isinstance(value, Point) is False" in told.text
