"""How fast: sitq against a plain sqlite3 loop, huey and litequeue, at equal durability, in one interleaved run.

``make bench``, or ``python -m tests.benchmarks --only W2 --rounds 5``. Absolute figures of two runs cannot be compared
(other programs share the machine); the ratios inside one run can.
"""
