"""Run every workload interleaved, each job in a fresh process and folder; print medians as ratios to ``raw``."""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
CONTESTANTS = {
    "W1": ("raw", "sitq", "huey", "litequeue"),
    "W1gather": ("sitq",),
    "W1bulk": ("raw", "sitq"),
    "W2": ("raw", "sitq", "huey"),
    "W3": ("raw", "sitq", "huey", "litequeue"),
}
SAYS = {
    "W1": "enqueue no-ops one at a time",
    "W1gather": "the same under asyncio.gather",
    "W1bulk": "the same by map (raw: 1000 a commit)",
    "W2": "drain queued no-ops, all results read back",
    "W3": "enqueue one on an idle worker, await its result",
}


def run(workload: str, who: str, durability: str, n: int) -> tuple[float, float]:
    """Seconds of a job, and its 99th percentile where it has one."""
    with tempfile.TemporaryDirectory() as folder:
        out = subprocess.run(
            [sys.executable, "-m", "tests.benchmarks.jobs", workload, who, durability, str(n)],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(ROOT), "SITQ_PROGRESS": "off"},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    seconds, tail = out.splitlines()[-1].split()
    return float(seconds), float(tail)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tasks", type=int, default=5000)
    parser.add_argument("--only", choices=CONTESTANTS)
    options = parser.parse_args()
    for workload, contestants in CONTESTANTS.items():
        if options.only in (None, workload):
            n = max(50, options.tasks // 10) if workload == "W3" else options.tasks
            print(f"{workload}: {SAYS[workload]}, {n:,} tasks, median of {options.rounds} rounds", flush=True)
            for durability in ("normal", "full"):
                times = {who: [] for who in contestants}
                for _ in range(options.rounds):
                    for who in contestants:
                        times[who].append(run(workload, who, durability, n))
                medians = {who: statistics.median(t for t, _ in found) for who, found in times.items()}
                floor = medians.get("raw")
                for who, seconds in medians.items():
                    each = seconds / (1 if workload == "W3" else n) * 1e6
                    tail = (
                        f", p99 {statistics.median(p for _, p in times[who]) * 1e6:,.0f} µs" if workload == "W3" else ""
                    )
                    speed = f", speed {floor / seconds:.2f} of raw" if floor else ""
                    print(f"  {durability:6} {who:9} {each:9,.1f} µs a task{tail}{speed}", flush=True)


if __name__ == "__main__":
    main()
