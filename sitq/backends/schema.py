"""The tables of a SQLite database, and how an older file becomes a newer one."""

from __future__ import annotations

import os
import sqlite3

from sitq.errors import NotASitqDatabase, SchemaTooNew

APPLICATION_ID = 0x73697471  # "sitq"
VERSION = 1

# The order of a task's columns is small and often read first, payloads last: SQLite reads a row from its head.
TABLES = """
CREATE TABLE meta (
    name TEXT PRIMARY KEY,
    value BLOB NOT NULL
) WITHOUT ROWID;
-- The highest number of a task that was ever deleted.
INSERT INTO meta (name, value) VALUES ('last_deleted', 0);

CREATE TABLE lanes (
    number INTEGER PRIMARY KEY,  -- 0, if there is one, stands for the lanes that are not made yet
    name TEXT NOT NULL UNIQUE,
    paused INTEGER NOT NULL DEFAULT 0
);
INSERT INTO lanes (number, name) VALUES (1, 'default');

CREATE TABLE sessions (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    token TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    host TEXT NOT NULL,
    boot_id TEXT NOT NULL,
    pid_namespace INTEGER NOT NULL,
    pid INTEGER NOT NULL,
    start_ticks INTEGER NOT NULL,
    concurrency INTEGER NOT NULL,
    beat INTEGER NOT NULL DEFAULT 0,
    started_at INTEGER NOT NULL,
    made_with TEXT NOT NULL,
    ended TEXT,
    lanes TEXT NOT NULL DEFAULT '["default"]',  -- that a worker serves, JSON
    stuck INTEGER NOT NULL DEFAULT 0  -- slots that threads keep whose tasks have ended
);
CREATE INDEX sessions_living ON sessions (number) WHERE ended IS NULL;

-- A function once per content, with its text.
CREATE TABLE functions (
    number INTEGER PRIMARY KEY,
    digest BLOB NOT NULL UNIQUE,
    name TEXT NOT NULL,
    module TEXT NOT NULL,
    coroutine INTEGER NOT NULL,
    made_with TEXT NOT NULL,
    source TEXT,
    sealed BLOB NOT NULL
);

-- Objects that many tasks use, once per content.
CREATE TABLE shared (
    digest BLOB NOT NULL UNIQUE,
    size INTEGER NOT NULL,
    sealed BLOB NOT NULL,
    holds TEXT NOT NULL  -- digests of others that it refers to, JSON
);

-- Which of them the arguments of a task hold.
CREATE TABLE uses (
    task INTEGER NOT NULL,
    digest BLOB NOT NULL,
    PRIMARY KEY (task, digest)
) WITHOUT ROWID;
CREATE INDEX uses_back ON uses (digest);

CREATE TABLE batches (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT UNIQUE,
    lane INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    acked INTEGER NOT NULL DEFAULT 0,  -- 1: a map wrote its last row
    mapping INTEGER,  -- session that maps it at this moment: one at a time
    mapped_after INTEGER NOT NULL DEFAULT 0,  -- highest task number when that map began: higher ones are its own
    version INTEGER,  -- the current one: what new tasks run, and what results are compared with
    max_failures INTEGER,  -- the rules of its last map
    max_error_rate REAL,
    stop_why TEXT,  -- why a rule has stopped it; NULL: none has, or it was let go on
    stop_ends INTEGER,  -- 1: it was ended, 0: it is paused
    paused INTEGER NOT NULL DEFAULT 0,  -- session whose user paused the whole batch (-1: unknown); 0: it may go on
    unfinished INTEGER NOT NULL DEFAULT 0,  -- 1: by its counts some of its tasks have not ended
    alike INTEGER NOT NULL DEFAULT 0,  -- so many failures in a row were alike
    alike_kind TEXT,  -- what they had in common
    alike_after INTEGER,  -- how many tasks had completed then: with another number the row is broken
    alike_passed TEXT NOT NULL DEFAULT '[]'  -- kinds that paused it until its user let it go on: not again, JSON
);
-- Newest first of those that go on, and of those that do not: who watches reads no other. It changes when a batch ends
-- or goes on, where one over the counts would with every completion.
CREATE INDEX batches_by_end ON batches (unfinished, number, lane);

-- The code of a batch, one row for each content. A result is stale if its version's code is not the current one's.
CREATE TABLE versions (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    batch INTEGER NOT NULL,
    function INTEGER NOT NULL,
    code BLOB NOT NULL,  -- digest
    label TEXT,  -- the user's word for it, then nothing else counts
    parts TEXT,  -- what the code consists of, JSON
    fixed TEXT NOT NULL,  -- JSON: name -> digest of a shared object
    record_result INTEGER NOT NULL,
    created_at INTEGER NOT NULL
);
CREATE INDEX versions_of_batch ON versions (batch);

-- What tasks may do in all processes together.
CREATE TABLE limits (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    starts INTEGER,  -- so many in any window …
    period INTEGER,  -- … of so many µs; NULL: any number
    concurrency INTEGER,  -- so many at once; NULL: any number
    paused_until INTEGER NOT NULL DEFAULT 0,  -- µs in UTC
    spent TEXT NOT NULL DEFAULT '[]'  -- starts that count, JSON: [first, last, how many] of groups, oldest first
);

-- The task row is its last attempt. Numbers are dense and never used again: the next one follows the highest row and
-- meta's last_deleted. AUTOINCREMENT would write one more page with each task, a fifth of the time of an enqueue.
CREATE TABLE tasks (
    number INTEGER PRIMARY KEY,
    state INTEGER NOT NULL DEFAULT 0,
    waits INTEGER NOT NULL DEFAULT 0,
    cancelling INTEGER NOT NULL DEFAULT 0,
    depends INTEGER NOT NULL DEFAULT 0,  -- 1: there are tasks that it needs
    shares INTEGER NOT NULL DEFAULT 0,  -- 1: its arguments hold shared objects
    lane INTEGER NOT NULL,
    priority INTEGER NOT NULL,
    origin INTEGER NOT NULL,  -- session that enqueued it
    session INTEGER,  -- session of its last claim
    attempt INTEGER NOT NULL DEFAULT 0,
    losses INTEGER NOT NULL DEFAULT 0,
    failures INTEGER NOT NULL DEFAULT 0,
    function INTEGER NOT NULL,
    batch INTEGER NOT NULL DEFAULT 0,  -- 0: none; negative: of this batch, but its last map did not ask for it
    position INTEGER,
    version INTEGER,
    limited INTEGER,  -- number of its limit
    enqueued_at INTEGER NOT NULL,
    started_at INTEGER,
    finished_at INTEGER,
    duration_s REAL,
    run_at INTEGER,
    timeout_s REAL,
    retry TEXT,
    key TEXT,
    name TEXT,
    tags TEXT,
    identity BLOB,  -- of its parameters, in a named batch
    occurrence INTEGER,  -- n-th task of equal parameters
    error_type TEXT,
    error TEXT,
    params TEXT,
    fields TEXT,
    traceback TEXT,
    arguments BLOB,  -- sealed; NULL: in payloads
    value BLOB  -- sealed; NULL with a completed task: in payloads
);
CREATE INDEX tasks_claimable ON tasks (lane, priority DESC, number) WHERE state = 0 AND waits = 0 AND limited IS NULL;
CREATE INDEX tasks_limited ON tasks (limited, lane, priority DESC, number)
    WHERE state = 0 AND waits = 0 AND limited IS NOT NULL;
CREATE INDEX tasks_limited_running ON tasks (limited) WHERE state = 1 AND limited IS NOT NULL;
CREATE INDEX tasks_processing ON tasks (session) WHERE state = 1;
CREATE INDEX tasks_scheduled ON tasks (run_at) WHERE state = 0 AND waits & 1;
CREATE INDEX tasks_waiting ON tasks (batch, lane) WHERE state = 0 AND waits <> 0;
CREATE INDEX tasks_lossy ON tasks (lane, priority DESC, number) WHERE state = 0 AND losses > 0;
CREATE INDEX tasks_failed ON tasks (batch, error_type) WHERE state = 3;
CREATE INDEX tasks_of_batch ON tasks (batch, position) WHERE batch <> 0;
CREATE UNIQUE INDEX tasks_by_identity ON tasks (batch, identity, occurrence) WHERE identity IS NOT NULL;
CREATE UNIQUE INDEX tasks_by_key ON tasks (key) WHERE key IS NOT NULL;

-- Payloads too large for a task row.
CREATE TABLE payloads (
    task INTEGER NOT NULL,
    kind INTEGER NOT NULL,  -- 0 arguments, 1 value
    sealed BLOB NOT NULL,
    PRIMARY KEY (task, kind)
);

-- An attempt that another one followed.
CREATE TABLE attempts (
    task INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    ended TEXT NOT NULL,
    session INTEGER,
    started_at INTEGER,
    finished_at INTEGER,
    again_at INTEGER,  -- when its task was let run again, that had ended with it; NULL: it had not
    duration_s REAL,
    error_type TEXT,
    error TEXT,
    traceback TEXT,
    value BLOB,
    PRIMARY KEY (task, attempt)
);

CREATE TABLE dependencies (
    task INTEGER NOT NULL,
    needs INTEGER NOT NULL,
    if_failed TEXT NOT NULL,  -- fail, skip or drop
    is_argument INTEGER NOT NULL,  -- 0: it only comes after it
    PRIMARY KEY (task, needs)
) WITHOUT ROWID;
CREATE INDEX dependencies_back ON dependencies (needs);

-- What cannot be derived in no time: added and finals by lane and batch. For lone tasks of the first lane `added` is
-- derived, since row numbers are dense: an enqueue then touches no counter.
CREATE TABLE counts (
    lane INTEGER NOT NULL,
    batch INTEGER NOT NULL,
    added INTEGER NOT NULL DEFAULT 0,
    removed INTEGER NOT NULL DEFAULT 0,
    completed INTEGER NOT NULL DEFAULT 0,
    failed INTEGER NOT NULL DEFAULT 0,
    cancelled INTEGER NOT NULL DEFAULT 0,
    busy_s REAL NOT NULL DEFAULT 0,  -- run times of attempts that have ended; nothing is ever taken away
    PRIMARY KEY (lane, batch)
) WITHOUT ROWID;
INSERT INTO counts (lane, batch) VALUES (1, 0);

-- State changes, one row for each state and transaction; new pending tasks show by their row numbers. The newest row
-- is never deleted, so numbers only grow without AUTOINCREMENT, which would write one more page in each transaction.
CREATE TABLE changes (
    number INTEGER PRIMARY KEY,
    source INTEGER NOT NULL,  -- which open backend wrote it
    state INTEGER NOT NULL,
    size INTEGER NOT NULL,
    tasks BLOB NOT NULL  -- row numbers, 8 bytes each
);

-- What an attempt told of itself, if it told anything.
CREATE TABLE told (
    task INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    done REAL,
    total REAL,
    message TEXT,
    notes TEXT,  -- a JSON object
    PRIMARY KEY (task, attempt)
) WITHOUT ROWID;

CREATE TABLE metrics (
    task INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    name TEXT NOT NULL,
    step INTEGER NOT NULL,
    value REAL,  -- NULL is NaN
    at INTEGER NOT NULL,
    PRIMARY KEY (task, attempt, name, step)
) WITHOUT ROWID;

-- What an attempt printed and displayed.
CREATE TABLE outputs (
    task INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    sealed BLOB NOT NULL,
    PRIMARY KEY (task, attempt)
);

-- What a task saved last, until it completes.
CREATE TABLE checkpoints (
    task INTEGER PRIMARY KEY,
    sealed BLOB NOT NULL
);

-- What a row carries beside its parameters, where its map names labels.
CREATE TABLE labels (
    task INTEGER PRIMARY KEY,
    fields TEXT NOT NULL  -- a JSON object
);
"""


def migrate(connection: sqlite3.Connection, where: str) -> None:
    """Create the tables where there are none, in one transaction that the caller has begun.

    Raises
    ------
    NotASitqDatabase
        The file belongs to another program.
    SchemaTooNew
        It was written by a newer sitq.
    """
    if refuse_foreign(connection, where):
        return
    for statement in TABLES.split(";\n"):
        if statement.strip():
            connection.execute(statement)
    connection.execute("INSERT INTO meta (name, value) VALUES ('database_id', ?)", (os.urandom(16),))
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {VERSION}")


def refuse_foreign(connection: sqlite3.Connection, where: str) -> bool:
    """Refuse what is not ours. True: the tables are there; False: the file is empty."""
    application, version, has_tables = _owner(connection)
    if application == APPLICATION_ID:
        if version > VERSION:
            raise SchemaTooNew(f"{where} has schema {version}; this sitq knows {VERSION}: install a newer one")
        return True
    if application or version or has_tables:
        raise NotASitqDatabase(
            f"{where} is another program's SQLite file; nothing was added to it. Choose another path"
        )
    return False


def _owner(connection: sqlite3.Connection) -> tuple[int, int, bool]:
    """Return application id, schema and whether there are tables, as of one moment.

    Read one by one they may straddle another process's migration: no id yet, but tables, as another program's file has.
    """
    alone = not connection.in_transaction
    if alone:
        connection.execute("BEGIN")
    try:
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        has_tables = connection.execute("SELECT 1 FROM sqlite_master").fetchone() is not None
    finally:
        if alone:
            connection.execute("ROLLBACK")
    return application, version, has_tables
