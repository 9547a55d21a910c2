"""Run every job interleaved (A B A B), each in a process and folder of its own; print ratios and the goals."""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
Key = tuple[str, str, str, int]  # workload, durability, who, tasks


class Goal(NamedTuple):
    """A ratio of two jobs' medians, or a figure of one, and what it should be."""

    workload: str
    durability: str
    says: str
    ours: Key
    others: Sequence[Key] = ()  # the ratio is to the best of them
    least: float | None = None  # times as fast
    most: float | None = None  # times as long, or µs
    figure: str = "each_us"
    unit: float = 1000.0


def jobs(scale: int) -> Iterator[Key]:
    """The jobs of a round, in the order in which they run."""

    def of(workload: str, durability: str, n: int, *who: str) -> Iterator[Key]:
        return ((workload, durability, one, n // scale) for one in who)

    yield from of("W1", "NORMAL", 5000, "raw", "sitq", "huey", "litequeue")
    yield from of("W1", "FULL", 2000, "raw", "sitq", "huey", "litequeue")
    yield from of("W1b-gather", "FULL", 5000, "sitq")
    yield from of("W1b-map", "NORMAL", 20_000, "raw", "sitq")
    for n in (5000, 20_000):
        yield from of("W2", "NORMAL", n, "raw", "sitq", "pool")
        yield from of("W2", "FULL", n, "raw", "sitq")
    yield from of("W2", "NORMAL", 2500, "huey", "litequeue")
    yield from of("W2", "FULL", 1000, "huey", "litequeue")
    yield from of("W3", "NORMAL", 500, "raw", "sitq", "huey", "litequeue")
    yield from of("W3-coroutine", "NORMAL", 500, "sitq")
    yield from of("W3-2", "NORMAL", 500, "raw")
    yield from of("W3-2", "FULL", 200, "raw")
    yield from of("W3", "FULL", 200, "raw", "sitq", "huey", "litequeue")
    yield from of("W3-coroutine", "FULL", 200, "sitq")
    yield from of("W3-other", "NORMAL", 20, "sitq")
    yield from of("W7", "NORMAL", 20_000, "sitq")
    yield from of("W7-enqueue", "NORMAL", 5000, "sitq")
    yield from of("W9", "NORMAL", 64, "forks", "sitq")
    yield from of("W10", "NORMAL", 100_000, "sitq")
    yield from of("W10-stats", "NORMAL", 1_000_000, "sitq")
    yield from of("W11", "NORMAL", 100_000, "sitq")
    yield from of("W11", "NORMAL", 1_000_000, "sitq")


def goals(ran: Sequence[Key]) -> Iterator[Goal]:
    """The goals for the jobs that ran."""

    def keys(workload: str, durability: str, *who: str) -> list[Key]:
        return [key for key in ran if key[:2] == (workload, durability) and key[2] in who]

    def fast(workload: str, durability: str, says: str, who: Sequence[str], least: float, other: str = "") -> Iterator:
        for ours in keys(workload, durability, "sitq"):
            others = keys(other or workload, durability, *who)
            if who == ("raw",) or who == ("pool",):
                others = [key for key in others if key[3] == ours[3]]
            if others:
                yield Goal(workload, durability, f"{says}, {ours[3]:,} tasks", ours, others, least=least)

    def short(workload: str, durability: str, says: str, most: float, figure: str, other: str = "") -> Iterator:
        for ours in keys(workload, durability, "sitq"):
            others = keys(other, durability, "raw") if other else ()
            yield Goal(workload, durability, says, ours, others, most=most, figure=figure)

    yield from fast("W1", "NORMAL", "speed of raw", ("raw",), 0.75)
    yield from fast("W1", "NORMAL", "speed of litequeue", ("litequeue",), 1.2)
    yield from fast("W1", "FULL", "speed of raw", ("raw",), 0.7)
    yield from fast("W1", "FULL", "speed of huey", ("huey",), 1.0)
    yield from fast("W1", "FULL", "speed of litequeue", ("litequeue",), 1.0)
    yield from fast("W1b-gather", "FULL", "speed of our own one by one", ("sitq",), 15.0, "W1")
    yield from fast("W1b-map", "NORMAL", "speed of raw, 1000 a commit", ("raw",), 0.4)
    yield from fast("W1b-map", "NORMAL", "speed of the best peer one by one", ("huey", "litequeue"), 12.0, "W1")
    for durability, raw, peer in (("NORMAL", 0.6, 10.0), ("FULL", 0.75, 30.0)):
        yield from fast("W2", durability, "speed of raw", ("raw",), raw)
        yield from fast("W2", durability, "speed of the best peer", ("huey", "litequeue"), peer)
        yield from fast("W2", durability, "speed of a ThreadPoolExecutor", ("pool",), 0.85)
    for durability, most in (("NORMAL", 1.3), ("FULL", 1.0)):
        for workload, what in (("W3", "a function"), ("W3-coroutine", "a coroutine function")):
            yield from short(workload, durability, f"time of raw in three commits, {what}", most, "each_us", "W3")
        yield from short("W3", durability, "time of raw in two commits", most, "each_us", "W3-2")
    yield from short("W3", "NORMAL", "p99, ms", 0.8, "p99_us")
    yield from short("W3-coroutine", "NORMAL", "p99, ms", 0.8, "p99_us")
    yield from short("W3-other", "NORMAL", "a worker in another process, ms", 25.0, "each_us")
    yield from fast("W9", "NORMAL", "speed of two forked loops", ("forks",), 0.95)
    yield from short("W7", "NORMAL", "a 5 ms ticker while W2 runs is late by, p99, ms", 2.0, "p99_us")
    yield from short("W7", "NORMAL", "… at most, ms", 5.0, "worst_us")
    yield from short("W7-enqueue", "NORMAL", "… while a loop enqueues, p99, ms", 5.0, "p99_us")
    yield from short("W10", "NORMAL", "a frame of all tasks, ms", 1000.0, "each_us")
    yield from short("W10-stats", "NORMAL", "statistics of all tasks, ms", 500.0, "each_us")
    for what, most, figure in (
        ("percent of the time for its bar", 1.0, "share"),
        ("updates of the bar a second", 4.0, "per_s"),
        ("bytes of memory a task", 110.0, "rss"),
    ):
        for ours in keys("W11", "NORMAL", "sitq"):
            yield Goal("W11", "NORMAL", f"{what}, {ours[3]:,} tasks", ours, most=most, figure=figure, unit=1.0)
    if len(bars := keys("W11", "NORMAL", "sitq")) == 2:
        yield Goal(
            "W11",
            "NORMAL",
            "bytes of an update to those of a tenth of the tasks",
            bars[1],
            bars[:1],
            most=1.05,
            figure="size",
        )


def run(key: Key, trace: Sequence[str] = ()) -> dict[str, float]:
    """Run one job, and return its measures."""
    workload, durability, who, n = key
    with tempfile.TemporaryDirectory() as folder:
        command = [*trace, sys.executable, "-m", "tests.benchmarks.job", workload, who, durability, str(n)]
        environment = os.environ | {"SITQ_PROGRESS": "off", "XDG_DATA_HOME": folder}  # W11 has a kernel of its own
        done = subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def syncs(who: str) -> float | None:
    """Count the fdatasync of a round trip, as what 100 more round trips add."""
    strace = shutil.which("strace")
    if strace is None:
        return None
    counts = []
    for n in (20, 120):
        with tempfile.NamedTemporaryFile() as log:
            try:
                run(("W3", "FULL", who, n), [strace, "-f", "-qq", "-e", "trace=fdatasync", "-o", log.name])
            except subprocess.CalledProcessError:
                return None  # tracing is not allowed here
            counts.append(Path(log.name).read_text(errors="replace").count("fdatasync("))
    return (counts[1] - counts[0]) / 100


def value(goal: Goal, found: dict[Key, list[dict[str, float]]]) -> float:
    """Return the median over the rounds of a goal's ratio or figure."""
    values = []
    for i, ours in enumerate(found[goal.ours]):
        if not goal.others:
            values.append(ours[goal.figure] / goal.unit)
            continue
        best = min(found[key][i][goal.figure] for key in goal.others)
        values.append(best / ours[goal.figure] if goal.least is not None else ours[goal.figure] / best)
    return statistics.median(values)


def say(workload: str, durability: str, what: str, measured: str, goal: str) -> None:
    print(f"{workload:14} {durability:7} {what:58} {measured:>9}   {goal}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", metavar="W", help="a workload such as W2, with what it is compared to")
    parser.add_argument("--quick", action="store_true", help="one round of a fifth of the tasks, to see that it runs")
    given = parser.parse_args()
    rounds = 1 if given.quick else given.rounds
    listed = list(jobs(5 if given.quick else 1))
    if given.only:
        wanted = given.only.upper() if given.only[-1].isdigit() else given.only
        listed = [k for k in listed if k[0].split("-")[0] == wanted or (wanted == "W1b" and k[0] == "W1")]
        if not listed:
            parser.error(f"no workload is named {given.only}")
    started = time.monotonic()
    found: dict[Key, list[dict[str, float]]] = defaultdict(list)
    for i in range(rounds):
        for key in listed:
            print(f"\r\033[Kround {i + 1} of {rounds}: {' '.join(map(str, key))}", end="", file=sys.stderr, flush=True)
            found[key].append(run(key))
    print("\r\033[K", end="", file=sys.stderr)

    print(f"Medians of {rounds} interleaved rounds, µs a task; compare them within this run only.\n")
    print(f"{'':14} {'':7} {'tasks':>6}  {'who':10} {'each':>9} {'p99':>9} {'worst':>9}")
    for key in sorted(found):
        figures = [
            "" if found[key][0][name] is None else f"{statistics.median(one[name] for one in found[key]):,.1f}"
            for name in ("each_us", "p99_us", "worst_us")
        ]
        print(f"{key[0]:14} {key[1]:7} {key[3]:6,}  {key[2]:10} {figures[0]:>9} {figures[1]:>9} {figures[2]:>9}")
    print()
    say("", "", "", "measured", "goal")
    for goal in goals(listed):
        got = value(goal, found)
        bound, met = (f"≥ {goal.least:g}", got >= goal.least) if goal.least else (f"≤ {goal.most:g}", got <= goal.most)
        say(goal.workload, goal.durability, goal.says, f"{got:.2f}", bound if met else f"{bound:7} not met")
    if given.only in (None, "W3"):
        for who, bound in (("sitq", "≤ 2"), ("raw", "")):
            count = syncs(who)
            told = "no strace" if count is None else f"{count:.2f}"
            say("W3", "FULL", f"fdatasync of a round trip, {who}", told, bound)
    print(f"\n{time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
