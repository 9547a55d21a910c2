"""The fixtures of sitq.testing, by real runs of pytest: the files of the how-to, with each asyncio plugin and none."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

HOW_TO = Path(__file__).parents[2] / "docs" / "how-to" / "test-your-tasks.md"
FILES = dict(re.findall(r'^```python title="(\S+)"\n(.*?)^```', HOW_TO.read_text(), re.S | re.M))


def run_pytest(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run pytest as a user does, with warnings as errors and without the plugins of ours that are not asked for."""
    (folder / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\nmarkers = asyncio\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *arguments]
    if "no:asyncio" not in arguments:
        command += ["-o", "asyncio_default_fixture_loop_scope=function"]  # it warns otherwise
    return subprocess.run(command, cwd=folder, text=True, capture_output=True, timeout=100, check=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def test_the_how_to_shows_three_files() -> None:
    assert list(FILES) == ["conftest.py", "prices.py", "test_prices.py"]


def test_the_files_of_the_how_to_pass_with_pytest_asyncio(folder: Path) -> None:
    done = run_pytest(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 passed" in done.stdout


def test_the_files_of_the_how_to_pass_with_anyio(folder: Path) -> None:
    file = folder / "test_prices.py"
    file.write_text(
        file.read_text().replace("pytest.mark.asyncio", "pytest.mark.anyio")
        + "\n\n@pytest.fixture\ndef anyio_backend():\n    return 'asyncio'\n"
    )
    done = run_pytest(folder, "-p", "no:asyncio")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 passed" in done.stdout


def test_the_files_of_the_how_to_pass_without_any_plugin(folder: Path) -> None:
    done = run_pytest(folder, "-p", "no:asyncio", "-p", "no:anyio", "-k", "without_any_plugin or reminder")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout


def test_a_loop_that_outlives_the_test_is_no_trouble(folder: Path) -> None:
    file = folder / "test_prices.py"
    file.write_text(file.read_text().replace("pytest.mark.asyncio", "pytest.mark.asyncio(loop_scope='module')"))
    done = run_pytest(folder)
    assert done.returncode == 0, done.stdout + done.stderr


TWO_TESTS = """
import asyncio


def test_one(sitq_queue):
    asyncio.run(sitq_queue.options(delay=9).enqueue(pow, 2, 5))
    asyncio.run(sitq_queue.map(divmod, [(1, 0)]))
    assert False


def test_two(sitq_sync_queue):
    assert sitq_sync_queue.counts().total == 0


def test_three(sitq_queue, sitq_clock):
    assert sitq_queue.clock is sitq_clock
"""


def test_a_test_that_fails_leaves_nothing_to_the_next_one(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text("import sitq.testing  # before\n\npytest_plugins = ['sitq.testing']\n")
    (tmp_path / "test_it.py").write_text(TWO_TESTS)
    done = run_pytest(tmp_path)
    assert "1 failed, 2 passed" in done.stdout, done.stdout + done.stderr


WHAT_OUTLIVES_A_LOOP = """
import asyncio


def test_it(sitq_queue):
    async def work():
        sitq_queue.monitor()
        sitq_queue.alert("depth", above=3)
        sitq_queue.on("failed", print)
        batch = await sitq_queue.map(abs, [1], stop_when=lambda df: False)
        await batch
        await batch.plot.durations(live=True)

    asyncio.run(work())
"""


def test_what_a_closed_loop_has_shown_and_watched_is_no_trouble(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text("pytest_plugins = ['sitq.testing']\n")
    (tmp_path / "test_it.py").write_text(WHAT_OUTLIVES_A_LOOP)
    done = run_pytest(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_run_without_the_plugin_loads_nothing_of_sitq(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import sys\n\n\ndef test_it():\n    assert [name for name in sys.modules if name.startswith('sitq')] == []\n"
    )
    done = run_pytest(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
