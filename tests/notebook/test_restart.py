"""Batches that survive, in real kernels: restarted, killed, mended, shared. A log outside the database judges them."""

import asyncio
import re
from collections import Counter
from html import unescape
from pathlib import Path

import nbformat
import pytest
from jupyter_client.kernelspec import KernelSpecManager
from nbclient import NotebookClient
from nbconvert import HTMLExporter

import sitq
from tests.faults import oracle
from tests.faults.test_kill import claimed, wait_for_line
from tests.kernels import PYTHONS, ROOT, Cell, Kernel, kernel

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

SLOTS = 4
OPEN = f"""
import asyncio, sitq
from tests.faults import oracle
queue = await sitq.open("work.db", concurrency={SLOTS})
"""
TRAIN = """
async def train(i):
    oracle.write("oracle.log", "start", i)
    await asyncio.sleep(0.005)
    oracle.write("oracle.log", "finish", i)
    return 2 * i
"""
MAP = "batch = await queue.map(train, range({}), name='svc')"
RERUN = " · `await batch.rerun(stale=True)`"


def map_cell(points: int) -> str:
    return f"{MAP.format(points)}\nawait batch"


def words(html: str) -> str:
    """What a reader sees of HTML."""
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", html)).split())


def bar(cell: Cell) -> tuple[str, str]:
    """The last bar of a cell that awaited a batch: its text, and the words of its HTML."""
    shown = next(bundle for bundle in cell.shown if bundle["text/plain"])
    assert "sitq-final" in shown["text/html"]
    return shown["text/plain"], words(shown["text/html"])


def said(cell: Cell) -> list[str]:
    """The lines of a cell, without the source line that Python adds to a warning."""
    return [line for line in cell.text.splitlines() if not line.startswith("  ")]


def starts(folder: Path) -> Counter[int]:
    return oracle.read(folder / "oracle.log")[0]


def once(points: int) -> dict[int, int]:
    return dict.fromkeys(range(points), 1)


# ---- a fresh kernel ----
def run_all(path: Path) -> nbformat.NotebookNode:
    """Restart & Run All, and save."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook, kernel_name="sitq-test", timeout=60, resources={"metadata": {"path": str(path.parent)}}
    ).execute()
    nbformat.write(notebook, path)
    return notebook


def test_run_all_in_a_fresh_kernel_keeps_every_point_and_says_so_in_the_saved_page(
    python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = tmp_path / "spec"
    spec.mkdir()
    argv = f'["{python}", "-m", "ipykernel_launcher", "-f", "{{connection_file}}"]'
    (spec / "kernel.json").write_text(f'{{"argv": {argv}, "display_name": "test", "language": "python"}}')
    for name, value in {"JUPYTER_DATA_DIR": tmp_path / "jupyter", "IPYTHONDIR": tmp_path, "PYTHONPATH": ROOT}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.delenv("SITQ_PROGRESS", raising=False)
    KernelSpecManager().install_kernel_spec(str(spec), "sitq-test", user=True)
    cells = [nbformat.v4.new_code_cell(source) for source in (OPEN, TRAIN, map_cell(120))]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "work.ipynb")

    first = run_all(tmp_path / "work.ipynb").cells[2].outputs
    assert first[0].text == "svc: 120 new\n"
    assert first[1].data["text/plain"].startswith("svc ━━━━━━━━━━ 120/120 done · ")
    again = run_all(tmp_path / "work.ipynb").cells[2].outputs
    assert again[0].text == "svc: 120 kept\n"
    assert again[1].data["text/plain"] == "svc ━━━━━━━━━━ 120 kept · 0 done · 0 left"
    assert words(again[1].data["text/html"]).startswith("svc 120 kept · 0 done · 0 left")
    page, _ = HTMLExporter().from_filename(str(tmp_path / "work.ipynb"))
    assert "svc 120 kept · 0 done · 0 left" in words(page)
    assert starts(tmp_path) == once(120)


async def test_the_same_cells_again_in_the_same_kernel_run_nothing(tmp_path: Path) -> None:
    async with kernel(PYTHONS[7], tmp_path) as one:
        for source in (OPEN, TRAIN, map_cell(30)):
            await one.run(source)
        for source in (OPEN, TRAIN):
            assert (await one.run(source)).text == ""
        again = await one.run(map_cell(30))
    assert said(again) == ["svc: 30 kept"]
    assert bar(again)[0] == "svc ━━━━━━━━━━ 30 kept · 0 done · 0 left"
    assert starts(tmp_path) == once(30)


async def test_a_database_that_was_deleted_between_two_kernels_makes_everything_new(tmp_path: Path) -> None:
    for _ in range(2):
        async with kernel(PYTHONS[7], tmp_path) as one:
            opened = await one.run(OPEN)
            await one.run(TRAIN)
            mapped = await one.run(map_cell(10))
            await one.shut_down()
        assert opened.text == ""
        assert said(mapped) == ["svc: 10 new"]
        for file in tmp_path.glob("work.db*"):
            file.unlink()
    assert starts(tmp_path) == dict.fromkeys(range(10), 2)


# ---- a killed kernel ----
async def kill_in_the_middle(python: Path, folder: Path, points: int, *cells: str) -> tuple[int, set[int]]:
    """Kill a kernel while it works; return how many points are left, and which were being run."""
    async with kernel(python, folder) as one:
        for source in (OPEN, *(cells or (TRAIN,)), MAP.format(points)):
            await one.run(source)
        await asyncio.to_thread(wait_for_line, folder / "oracle.log", 40)
        await one.kill()
    in_flight = claimed(folder / "work.db")
    assert len(in_flight) <= SLOTS
    async with sitq.TaskQueue(folder / "work.db") as queue:
        return points - (await queue.counts()).finished, in_flight


@pytest.mark.parametrize("how", ["its cell", "queue.resume()"])
async def test_what_a_killed_kernel_left_waits_until_it_is_wanted_and_goes_on_where_it_stopped(
    how: str, python: Path, tmp_path: Path
) -> None:
    points = 1200
    left, in_flight = await kill_in_the_middle(python, tmp_path, points)
    assert left > 1000
    before = starts(tmp_path)
    async with kernel(python, tmp_path) as two:
        opened = await two.run(OPEN)
        wait = f"{left:,} tasks wait from an earlier kernel: run their cell again, or `await queue.resume()`"
        assert opened.text == f"{wait}\n"
        await two.run("await asyncio.sleep(0.7)")
        assert starts(tmp_path) == before, "nothing starts by itself"
        if how == "its cell":
            await two.run(TRAIN)
            went_on = await two.run(map_cell(points))
            assert said(went_on) == [f"svc: {points - left:,} kept, {left:,} go on"]
            kept = f"{points - left:,} kept · {left:,} done · 0 left"
            text, html = bar(went_on)
            assert text.startswith(f"svc ━━━━━━━━━━ {kept} · ")
            assert html.startswith(f"svc {kept}")
        else:
            assert (await two.run("print(await queue.resume())")).text == f"{left}\n"
            went_on = await two.run("batch = await queue.batch('svc')\nawait batch")
            assert bar(went_on)[0].startswith(f"svc ━━━━━━━━━━ {points:,}/{points:,} done · ")
        values = await two.run("print(await batch.values() == [2 * i for i in range(len(batch))], len(batch))")
        assert values.text == f"True {points}\n"
    run, finished = oracle.read(tmp_path / "oracle.log")
    assert set(finished) == set(range(points))
    assert {i for i in run if run[i] > 1} <= in_flight, "only what was being run starts again"
    assert max(run.values()) <= 2


async def test_the_bar_of_what_waits_says_so_and_how_to_let_it_go(tmp_path: Path) -> None:
    left, _ = await kill_in_the_middle(PYTHONS[7], tmp_path, 300)
    async with kernel(PYTHONS[7], tmp_path) as two:
        await two.run(OPEN)
        shown = await two.run("batch = await queue.batch('svc')\nbatch")
        await shown.until(lambda cell: "left" in cell.shown[0]["text/plain"])
        told = f"{left} tasks are held: `await batch.resume()` lets them go"
        text, html = shown.shown[0]["text/plain"], words(shown.shown[0]["text/html"])
        assert f" {300 - left}/300 done · {left} left · {left} held · " in text
        assert text.endswith(f" · ! {told}")
        assert f"⚠ {told.replace('`', '')}" in html
        assert (await two.run("print(await batch.resume())")).text == f"{left}\n"
        await two.run("await batch")
        assert "300/300 done" in shown.shown[0]["text/plain"]


# ---- mended code ----
BROKEN = """
def train(i):
    oracle.write("oracle.log", "start", i)
    return 12 // (i % 4 - 3)
"""
MENDED = BROKEN.replace("- 3", "+ 1")
CHANGED = "train: `12 // (i % 4 - 3)` → `12 // (i % 4 + 1)`"


@pytest.mark.parametrize("restart", [False, True], ids=["same kernel", "fresh kernel"])
async def test_a_mended_function_runs_what_failed_and_what_it_made_before_is_loudly_stale(
    restart: bool, python: Path, tmp_path: Path
) -> None:
    async def run(one: Kernel) -> None:
        mended = await one.run(f"{MENDED}\n{map_cell(20)}")
        line, warning = said(mended)
        assert line == "svc: 15 kept, 5 again with the new code"
        told = f"15 by version 1: {CHANGED}"
        assert f"StaleResults: svc: {told}. `await batch.rerun(stale=True)` runs them again" in warning
        text, html = bar(mended)
        assert text.startswith("svc ━━━━━━━━━━ 15 kept · 5 done · 0 left · 15 stale · ")
        assert text.endswith(f" · ! {told}{RERUN}")
        assert html.startswith("svc 15 kept · 5 done · 0 left")
        assert "≠ 15 stale" in html
        assert f"⚠ {told}{RERUN}".replace("`", "") in html
        assert starts(tmp_path) == {i: 2 if i % 4 == 3 else 1 for i in range(20)}, "only what had failed runs again"
        frame = await one.run(
            "df = await batch.to_frame()\n"
            "print({stale: sorted({*same['result'].tolist()}) for stale, same in df.groupby('stale')})"
        )
        assert frame.text == "{False: [3], True: [-12, -6, -4]}\n", "what had finished stays as it was"

        again = await one.run("print(await batch.rerun(stale=True))\nawait batch")
        assert again.text == "15\n"
        text, html = bar(again)
        assert "stale" not in text + html
        assert starts(tmp_path) == dict.fromkeys(range(20), 2)
        values = await one.run("print(await batch.values() == [12 // (i % 4 + 1) for i in range(20)])")
        assert values.text == "True\n"
        at_last = await one.run(map_cell(20))
        assert said(at_last) == ["svc: 20 kept"]

    async with kernel(python, tmp_path) as one:
        await one.run(OPEN)
        broken = await one.run(f"{BROKEN}\n{map_cell(20)}")
        assert "5 failed" in bar(broken)[0]
        same = await one.run(map_cell(20))
        assert said(same) == ["svc: 20 kept (5 failed: `await batch.retry()` runs them again)"], (
            "the same code would fail again"
        )
        assert starts(tmp_path) == once(20)
        if not restart:
            await run(one)
            return
        await one.shut_down()
    async with kernel(python, tmp_path) as two:
        assert (await two.run(OPEN)).text == "", "what has failed does not wait"
        await run(two)


SCALE = """
def scale(i):
    return i * FACTOR
"""
MODEL = """
class Model:
    depth = 3
    def fit(self, i):
        return i + self.depth
"""
FIT = """
def fit(i):
    oracle.write("oracle.log", "start", i)
    return Model().fit(scale(i))
"""
MAP_FIT = "batch = await queue.map(fit, range(6), name='fit')\nawait batch"
EDITS = [  # a cell that is run, and what is said to have changed since the first version
    (SCALE, ""),
    ("FACTOR = 10", ""),
    (MODEL, ""),
    (FIT, ""),
    ("FACTOR: int = 2 * 5  # epochs", ""),
    ('# better now\n\ndef scale(i: int) -> int:\n    """Scale."""\n    return (i *\n        FACTOR)', ""),
    ("unrelated = 7\ndef bystander(): return unrelated", ""),
    ("FACTOR = 20", "FACTOR 10 → 20"),
    ("FACTOR = 10", ""),
    (SCALE.replace("FACTOR", "FACTOR + 1"), "scale: `i * FACTOR` → `i * FACTOR + 1`"),
    (f"{SCALE}\n{MODEL.replace('3', '4')}", "Model: `depth = 3` → `depth = 4`"),
    (MODEL.replace("i +", "i -"), "Model.fit: `i + self.depth` → `i - self.depth`"),
    (MODEL, ""),
]


async def test_changes_in_other_cells_are_found_and_nothing_else_is_a_change(tmp_path: Path) -> None:
    async with kernel(PYTHONS[7], tmp_path) as one:
        for source in (OPEN, SCALE, "FACTOR = 10", MODEL, FIT, MAP_FIT):
            await one.run(source)
        for source, changed in EDITS:
            await one.run(source)
            mapped = await one.run(MAP_FIT)
            line, *warning = said(mapped)
            assert line == "fit: 6 kept", source
            stale = f"6 by version 1: {changed}"
            assert [text.partition("StaleResults: fit: ")[2].partition(". `await")[0] for text in warning] == (
                [stale] if changed else []
            ), source
            assert bar(mapped)[0] == "fit ━━━━━━━━━━ 6 kept · 0 done · 0 left" + (
                f" · 6 stale · ! {stale}{RERUN}" if changed else ""
            )
    assert starts(tmp_path) == once(6), "nothing of this runs anything"


# ---- cells out of order ----
async def test_a_helper_that_is_changed_below_the_map_counts_when_the_map_runs_again(tmp_path: Path) -> None:
    async with kernel(PYTHONS[7], tmp_path) as one:
        await one.run(OPEN)
        await one.run(
            "gate = asyncio.Event()\nFACTOR = 10\n"
            "def scale(i): return i * FACTOR\n"
            "async def fit(i):\n    oracle.write('oracle.log', 'start', i)\n"
            "    while i >= 5 and not os.path.exists('go'): await asyncio.sleep(0.01)\n    return scale(i)\n"
            "import os"
        )
        first = await one.run("batch = await queue.map(fit, range(20), name='fit')")
        await one.run("while (await queue.counts()).completed < 5: await asyncio.sleep(0.01)")
        await one.run("FACTOR = 1000")  # what was mapped does not see it
        (tmp_path / "go").touch()
        await one.run("await batch.wait()")
        values = await one.run("print(await batch.values() == [10 * i for i in range(20)])")
        assert values.text == "True\n", "a batch runs the code of the moment it was mapped"
        again = await one.run("batch = await queue.map(fit, range(22), name='fit'); await batch.wait()")
        values = await one.run("print((await batch.values())[18:])")
    assert said(first) == ["fit: 20 new"]
    assert said(again)[0] == "fit: 20 kept, 2 new"
    assert "20 by version 1: FACTOR 10 → 1000" in said(again)[1]
    assert values.text == "[180, 190, 20000, 21000]\n"
    assert starts(tmp_path) == once(22)


async def test_a_map_that_ran_before_its_helper_cell_is_set_right_by_running_both_again(tmp_path: Path) -> None:
    helper = "async def scale(i):\n    await asyncio.sleep(0.005)\n    return 2 * i"
    train = TRAIN.replace("await asyncio.sleep(0.005)", "scaled = await scale(i)").replace("2 * i", "scaled")
    left, in_flight = await kill_in_the_middle(PYTHONS[7], tmp_path, 200, helper, train)
    async with kernel(PYTHONS[7], tmp_path) as two:
        await two.run(OPEN)
        unknown = await two.start(MAP.format(200)).end()
        assert unknown.error is not None
        assert unknown.error[0] == "NameError", "the function's own cell did not run"
        await two.run(train)
        early = await two.start(map_cell(200)).end()  # the helper's cell did not
        assert said(early)[0] == f"svc: {200 - left} kept, {left} again with the new code"
        assert early.error is not None
        assert early.error[0] == "BatchPaused"
        assert "NameError: name 'scale' is not defined" in early.error[1]
        await two.run(helper)
        right = await two.run(map_cell(200))
        assert said(right) == [f"svc: {200 - left} kept, {left} again with the new code"], "and nothing is stale"
        assert bar(right)[0].startswith(f"svc ━━━━━━━━━━ {200 - left} kept · {left} done · 0 left · ")
        values = await two.run("print(await batch.values() == [2 * i for i in range(200)])")
    assert values.text == "True\n"
    finished = oracle.read(tmp_path / "oracle.log")[1]
    assert {i for i in finished if finished[i] > 1} <= in_flight


async def test_another_function_under_a_name_that_is_taken_is_an_error_and_changes_nothing(tmp_path: Path) -> None:
    async with kernel(PYTHONS[7], tmp_path) as one:
        for source in (OPEN, TRAIN, map_cell(5), "def other(i): return i"):
            await one.run(source)
        refused = await one.start("await queue.map(other, range(5), name='svc')").end()
        assert refused.error is not None
        assert refused.error[:2] == (
            "BatchExists",
            "the batch 'svc' was made by train, and this is other: choose another name, or rename the old one with"
            " `await queue.rename(name, another)`",
        )
        assert said(await one.run(map_cell(5))) == ["svc: 5 kept"]


# ---- two notebooks ----
async def test_two_kernels_that_map_the_same_batch_at_once_run_each_point_once(tmp_path: Path) -> None:
    async with kernel(PYTHONS[7], tmp_path) as one, kernel(PYTHONS[7], tmp_path) as two:
        for each in (one, two):
            await each.run(OPEN)
            await each.run(TRAIN)
        cells = [each.start(map_cell(500)) for each in (one, two)]
        for cell in cells:
            await cell.end()
            assert cell.error is None
            text, html = bar(cell)
            assert re.match(r"svc ━{10} (500/500 done|\d+ kept · \d+ done · 0 left) · ", text)
            assert "✓ 500 completed" in html
        values = [await each.run("print(sum(await batch.values()), len(batch))") for each in (one, two)]
        assert [cell.text for cell in values] == ["249500 500\n"] * 2
    told = [said(cell)[-1] for cell in cells]
    told.remove("svc: 500 new")
    assert re.fullmatch(r"svc: (\d+ kept, )?\d+ go on(, \d running)?", told[0])
    assert starts(tmp_path) == once(500)
    assert len({line.pid for line in oracle.lines(tmp_path / "oracle.log")}) == 2, "both took part"


async def test_a_second_notebook_that_opens_the_file_holds_nothing_that_the_first_one_runs(tmp_path: Path) -> None:
    async with kernel(PYTHONS[7], tmp_path) as one, kernel(PYTHONS[7], tmp_path) as two:
        for source in (OPEN, TRAIN, MAP.format(400)):
            await one.run(source)
        assert (await two.run(OPEN)).text == ""
        assert bar(await one.run("await batch"))[0].startswith("svc ━━━━━━━━━━ 400/400 done")
    assert starts(tmp_path) == once(400)


# ---- a colleague ----
FOREST = """
class Forest:
    def __init__(self, trees): self.trees = trees
"""
GROW = """
from forest import Forest
def grow(trees, bare):
    return trees if bare else Forest(trees)
"""


@pytest.fixture
async def forests(tmp_path: Path) -> tuple[Path, Path]:
    """A database of one who has a module, and the folder of another who has not."""
    mine, theirs = tmp_path / "mine", tmp_path / "theirs"
    mine.mkdir()
    theirs.mkdir()
    (mine / "forest.py").write_text(FOREST)
    async with kernel(PYTHONS[7], mine) as one:
        for source in (OPEN, GROW):
            await one.run(source)
        await one.run("await (await queue.map(grow, sitq.grid(trees=[3, 5], bare=[True, False]), name='forests'))")
        await one.shut_down()
    return mine / "work.db", theirs


async def test_a_colleague_without_the_code_sees_the_bar_and_what_can_be_read(forests: tuple[Path, Path]) -> None:
    path, theirs = forests
    async with kernel(PYTHONS[7], theirs) as two:
        opened = await two.run(f"import sitq\nqueue = await sitq.open({str(path)!r})")
        assert opened.text == ""
        shown = await two.run("batch = await queue.batch('forests')\nawait batch")
        assert bar(shown)[0].startswith("forests ━━━━━━━━━━ 4/4 done")
        some = await two.run(
            "for result in await batch.results():\n"
            "    try:\n        print(result.params['trees'], result.value)\n"
            "    except sitq.SitqError as error:\n        print(type(error).__name__, error)"
        )
        text = re.sub(r"task \S+ cannot", "task … cannot", some.text)
        unknown = (
            "DeserializationError the result of task … cannot be read: cannot be unpickled:"
            " ModuleNotFoundError: No module named 'forest'"
        )
        assert text.splitlines() == ["3 3", unknown, "5 5", unknown]


async def test_a_colleague_reads_the_frame_without_code_and_key_and_leaves_no_trace(
    forests: tuple[Path, Path],
) -> None:
    path, theirs = forests
    before = path.read_bytes()
    async with kernel(PYTHONS[7], theirs, XDG_DATA_HOME=str(theirs / "data")) as two:
        read = await two.run(
            f"import sitq\ndf = sitq.read({str(path)!r}, 'forests')\n"
            "print(df[['param.trees', 'param.bare', 'status']].values[::3].tolist(), df['result'].tolist()[::2])"
        )
        assert read.text == "[[3, True, 'completed'], [5, False, 'completed']] [3, 5]\n"
        assert not (theirs / "data").exists(), "no key was made"
        assert path.read_bytes() == before
        await two.run(f"queue = await sitq.open({str(path)!r}, worker=False)\nbatch = await queue.batch('forests')")
        refused = await two.start("await batch.values()").end()
        assert refused.error is not None
        assert refused.error[0] == "UntrustedPayload"
        assert "Status, frames and statistics need no key" in refused.error[1]
