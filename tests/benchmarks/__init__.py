"""Workloads against a plain sqlite3 loop and the peers; run with ``make bench``."""
