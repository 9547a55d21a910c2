"""One job in a process of its own: ``python -m tests.benchmarks.job W2 sitq FULL 5000`` prints its measures as JSON."""

import dataclasses
import json
import sys
import tempfile
from pathlib import Path

from tests.benchmarks import ours, peers, raw

JOBS = {
    "sitq": ours.job,
    "raw": raw.job,
    "huey": peers.huey,
    "litequeue": peers.litequeue,
    "pool": peers.pool,
    "forks": peers.forks,
}


def no_op(x: int) -> int:
    return x


if __name__ == "__main__":  # the function is one of __main__, as in a notebook
    workload, who, durability, n = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        measured = JOBS[who](workload, int(n), Path(folder), durability, no_op)
    print(json.dumps(dataclasses.asdict(measured)))
