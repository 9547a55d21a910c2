"""Simulated worlds, in which it is known how often the band of an estimate holds what happens then.

``python -m tests.forecasts`` tells it of a thousand fresh cases in each.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sitq.estimating import Estimate, History, ends, estimate

Floats = NDArray[np.float64]
KERNELS = ("rbf", "linear", "poly")
SIZES = (10, 30, 100, 300, 1000)


@dataclass(frozen=True)
class World:
    """Tasks that ran before, and those that are asked for.

    Attributes
    ----------
    chance, between : float
        By which the logarithms of the durations of equal tasks differ, and those of whole runs.
    runs : int
        In which the earlier tasks ran.
    larger : int
        So many times as large are the sizes that are asked for.
    law : str
        How long a task takes: "flat", "power" of a size and by kernel, "affine" in a size, or "heavy": as "power", but
        of a hundred tasks three take thirty times as long.
    """

    before: int
    asked: int
    chance: float = 0.3
    between: float = 0.1
    runs: int = 1
    law: str = "power"
    larger: int = 1


WORLDS = {
    "one run": World(240, 300),
    "five runs": World(240, 300, runs=5),
    "runs that differ much": World(240, 300, between=0.3, runs=5),
    "runs that differ little": World(240, 300, between=0.02, runs=5),
    "one task before": World(1, 300, law="flat"),
    "three tasks before": World(3, 300, law="flat"),
    "three much alike": World(3, 300, chance=0.05, law="flat"),
    "ten tasks before": World(10, 300),
    "thirty tasks before": World(30, 300),
    "few are asked for": World(240, 20, runs=2),
    "a constant and a slope": World(240, 300, chance=0.05, runs=3, law="affine"),
    "ten times as large": World(240, 300, chance=0.05, runs=3, law="affine", larger=10),
    "some take much longer": World(240, 300, chance=0.2, runs=2, law="heavy"),
    "few, some take much longer": World(240, 30, chance=0.2, runs=2, law="heavy"),
}
SLOTS = 8


def happen(world: World, seed: int) -> tuple[Estimate, float]:
    """Estimate in a world, and return what was estimated and what happened then."""
    rng = np.random.default_rng(seed)
    by_kernel = dict(zip(KERNELS, rng.normal(0, 0.7, 3), strict=True))
    power = rng.choice([0.0, 0.5, 1.0])

    def params(n: int) -> dict[str, list[Any]]:
        return {
            "size": rng.choice(SIZES, n).tolist(),
            "kernel": rng.choice(KERNELS, n).tolist(),
            "seed": rng.integers(0, 1000, n).tolist(),
            "rate": (10 ** rng.uniform(-4, 0, n)).tolist(),
        }

    def logs(of: dict[str, list[Any]]) -> Floats:
        n, size = len(of["seed"]), np.array(of["size"], dtype=float)
        found = rng.normal(0, world.chance, n)
        if world.law == "affine":
            return np.asarray(found + np.log(0.5 + 0.01 * size))
        if world.law != "flat":
            found += power * np.log(size) + np.array([by_kernel[kernel] for kernel in of["kernel"]])
        if world.law == "heavy":
            found += np.where(rng.random(n) < 0.03, np.log(30), 0)
        return found

    before, asked = params(world.before), params(world.asked)
    asked["size"] = [world.larger * size for size in asked["size"]]
    run = rng.integers(0, world.runs, world.before)
    took = np.exp(logs(before) + rng.normal(0, world.between, world.runs)[run])
    history = History(took.tolist(), [0] * world.before, run.tolist(), before)
    happened = np.exp(logs(asked) + rng.normal(0, world.between))
    return estimate(history, asked, world.asked, SLOTS), float(ends(happened[None, :], SLOTS)[0])


def held(world: World, seeds: range) -> float:
    """In what fraction of cases the band held what happened."""
    cases = [happen(world, seed) for seed in seeds]
    return float(np.mean([estimated.low_s <= took <= estimated.high_s for estimated, took in cases]))


if __name__ == "__main__":
    start = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    for name, world in WORLDS.items():
        print(f"{name:30} {held(world, range(start, start + 1000)):.2f}", flush=True)
