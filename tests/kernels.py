"""Real Jupyter kernels: start one, run cells, interrupt it, shut it down or kill it, and look at what it showed."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager

ROOT = Path(__file__).parents[1]
PYTHONS = {6: ROOT / ".venv-ipykernel6" / "bin" / "python", 7: Path(sys.executable)}
READY_S = 60.0
CELL_S = 30.0


class Specs(KernelSpecManager):
    """A kernel's name is the path of its interpreter."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        argv = [kernel_name, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=argv, display_name="test", language="python")


@dataclass(eq=False)
class Cell:
    """What a cell that was started has given so far."""

    text: str = ""  # of both streams
    shown: list[dict[str, Any]] = field(default_factory=list)  # bundles, as updated since
    error: tuple[str, str, list[str]] | None = None  # name, text, traceback
    done: bool = False
    began: float = field(default_factory=time.monotonic)
    ended: float = 0.0
    news: asyncio.Event = field(default_factory=asyncio.Event)

    async def until(self, condition: Callable[["Cell"], object], timeout: float = CELL_S) -> None:
        """Wait for something of the cell."""
        async with asyncio.timeout(timeout):
            while not condition(self):
                self.news.clear()
                await self.news.wait()

    async def end(self, timeout: float = CELL_S) -> "Cell":
        await self.until(lambda cell: cell.done, timeout)
        return self


class Kernel:
    def __init__(self, manager: AsyncKernelManager):
        self._manager = manager
        self._client = manager.client()
        self._cells: dict[str, Cell] = {}
        self._displays: dict[str, list[tuple[Cell, int]]] = {}
        self._reading: asyncio.Task[None] | None = None
        self.process = manager.provisioner.process  # type: ignore[union-attr]  # started

    @property
    def pid(self) -> int:
        return self.process.pid

    async def connect(self) -> None:
        self._client.start_channels()
        await self._client.wait_for_ready(timeout=READY_S)
        self._reading = asyncio.create_task(self._read())

    def start(self, source: str) -> Cell:
        """Run a cell, and do not wait for its end."""
        cell = Cell()
        self._cells[self._client.execute(source)] = cell
        return cell

    async def run(self, source: str, timeout: float = CELL_S) -> Cell:
        """Run a cell that raises nothing."""
        cell = await self.start(source).end(timeout)
        assert cell.error is None, "\n".join(cell.error[2])
        return cell

    async def complete(self, source: str) -> tuple[list[str], str]:
        """What is offered at the end of a cell that is being typed, and in place of what."""
        asked = self._client.complete(source, len(source))
        async with asyncio.timeout(CELL_S):
            while True:
                message = await self._client.get_shell_msg(timeout=None)
                if message["parent_header"].get("msg_id") == asked:
                    found = message["content"]
                    return found["matches"], source[found["cursor_start"] : found["cursor_end"]]

    def interrupt(self) -> None:
        """As the stop button does it."""
        self.process.send_signal(signal.SIGINT)

    async def kill(self) -> None:
        self.process.kill()
        await self._gone()

    async def shut_down(self) -> tuple[float, int]:
        """Shut down as a server does it, at leisure; the seconds it took and the exit code."""
        began = time.monotonic()
        self._client.shutdown()
        await self._gone()
        return time.monotonic() - began, self.process.returncode

    async def _gone(self) -> None:
        async with asyncio.timeout(READY_S):
            while self.process.poll() is None:
                await asyncio.sleep(0.005)

    async def close(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
        self._client.stop_channels()
        if self.process.poll() is None:
            await self.kill()
        await self._manager.cleanup_resources()

    async def _read(self) -> None:
        while True:
            message = await self._client.get_iopub_msg(timeout=None)
            cell = self._cells.get(message["parent_header"].get("msg_id", ""))
            self._take(message["msg_type"], message["content"], cell)
            for one in self._cells.values():
                one.news.set()

    def _take(self, kind: str, content: dict[str, Any], cell: Cell | None) -> None:
        if kind == "update_display_data":
            for owner, at in self._displays.get(content["transient"]["display_id"], ()):
                owner.shown[at] = content["data"]
        if cell is None:
            return
        if kind == "stream":
            cell.text += content["text"]
        elif kind in ("display_data", "execute_result"):
            display_id = content.get("transient", {}).get("display_id")
            if display_id:
                self._displays.setdefault(display_id, []).append((cell, len(cell.shown)))
            cell.shown.append(content["data"])
        elif kind == "error":
            cell.error = (content["ename"], content["evalue"], content["traceback"])
        elif kind == "status" and content["execution_state"] == "idle":
            cell.done, cell.ended = True, time.monotonic()


@asynccontextmanager
async def kernel(python: Path, folder: Path, **environment: str) -> AsyncIterator[Kernel]:
    """A kernel in a folder; at the end it is killed, if it still runs."""
    manager = AsyncKernelManager(kernel_name=str(python), kernel_spec_manager=Specs())
    manager.connection_file = str(folder / f"kernel-{time.monotonic_ns()}.json")
    kept = {"PYTHONPATH": str(ROOT), "IPYTHONDIR": str(folder / "ipython")}
    await manager.start_kernel(cwd=str(folder), env=os.environ | kept | environment)
    started = Kernel(manager)
    try:
        await started.connect()
        yield started
    finally:
        await started.close()
