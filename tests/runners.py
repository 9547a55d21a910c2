"""Tasks for runner processes, and how tests see from outside what they do there.

They stand in a module, so that they are pickled by name; what they tell goes through files of the test's folder.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

LONG_S = 10.0


def pid(*_: Any) -> int:
    return os.getpid()


def begin(sign: str) -> None:
    """Say in a file that a task runs, and in which process."""
    made = Path(f"{sign}.making")
    made.write_text(str(os.getpid()))
    made.rename(sign)


def hold(sign: str, until: str | None = None) -> int:
    """Say that it runs, and wait for a file, or for ever."""
    begin(sign)
    while until is None or not os.path.exists(until):
        time.sleep(0.005)
    return os.getpid()


def hold_gil(sign: str) -> None:
    """Say that it runs, and hold the interpreter in C code: no thread of the process gets a turn."""
    begin(sign)
    sum(range(10**12))


def hold_with_child(sign: str, child: str) -> None:
    """Fork a process that would live for long, and hold."""
    if os.fork() == 0:
        hold(child)
    hold(sign)


def hold_with_program(sign: str, child: str) -> None:
    """Start a program that would live for long, and hold."""
    program = f"import os, time; open({child!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    subprocess.Popen([sys.executable, "-c", program])
    hold(sign)


def hold_with_spawned(sign: str, child: str) -> None:
    """The same, in a way that Python tells nobody of: it is noticed a little later."""
    multiprocessing.get_context("spawn").Process(target=hold, args=(child,), daemon=True).start()
    while any(thread.name == "sitq-guard" for thread in threading.enumerate()):
        time.sleep(0.005)
    hold(sign)


def leave(code: int) -> None:
    os._exit(code)


def leave_a_child(child: str) -> None:
    """Die, while a process that it forked lives."""
    if os.fork() == 0:
        hold(child)
    while not os.path.exists(child):
        time.sleep(0.005)
    os._exit(3)


def leave_once(sign: str) -> int:
    """Die in the first attempt."""
    if not os.path.exists(sign):
        begin(sign)
        os._exit(3)
    return os.getpid()


def take_memory(size: int) -> int:
    data = bytearray(size)
    data[::4096] = b"x" * len(data[::4096])
    time.sleep(LONG_S)
    return len(data)


def start_one_that_takes_memory(sign: Path, size: int) -> None:
    """Start a program that takes memory, and wait for it."""
    program = (
        f"import os, time; open({str(sign)!r}, 'w').write(str(os.getpid()));"
        f" data = bytearray({size}); data[::4096] = b'x' * len(data[::4096]); time.sleep({LONG_S})"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def fork_with_memory(sign: Path, size: int, n: int) -> int:
    """Take memory, and have n processes that share it, until there is a sign."""
    data = b"x" * size
    forked = []
    for _ in range(n):
        if (pid := os.fork()) == 0:
            with suppress(BaseException):
                until(sign)
            os._exit(0)
        forked.append(pid)
    until(sign)
    for pid in forked:
        os.waitpid(pid, 0)
    return len(data)


def until(sign: Path) -> None:
    end = time.monotonic() + LONG_S
    while not sign.exists() and time.monotonic() < end:
        time.sleep(0.005)


async def begun(sign: Path) -> int:
    """Return the process that a task says it runs in, once it does; another process says it, so it is looked for."""
    async with asyncio.timeout(LONG_S):
        while not sign.exists():
            await asyncio.sleep(0.005)
    return int(sign.read_text())


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"


async def ended(pid: int, within_s: float = LONG_S) -> None:
    """Wait for the end of a process."""
    async with asyncio.timeout(within_s):
        while is_alive(pid):
            await asyncio.sleep(0.005)
