"""The reading statements of SQLite. Each is fetched whole: a half-read cursor would keep checkpoints from working."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sitq.models import ENDED_BY_RULE, NEEDED_FAILED, Counts
from sitq.rows import SessionRow

SLICE = 500  # numbers in one read of results: larger ones stall the loop that decodes them

# Whether a result of one version differs from what the current one would give, as far as the code tells.
OTHER_CODE = "made.code <> now.code OR (made.fixed <> now.fixed AND now.label IS NULL)"
# Tasks that were computed from results that are stale, or that have been computed anew since. Without dependencies
# nothing is read.
TAINTED = f"""
WITH RECURSIVE tainted (number) AS (
    SELECT dependencies.task FROM dependencies
        JOIN tasks ON tasks.number = dependencies.needs
        JOIN tasks AS dependent ON dependent.number = dependencies.task
        LEFT JOIN batches ON batches.number = abs(tasks.batch)
        LEFT JOIN versions AS made ON made.number = tasks.version
        LEFT JOIN versions AS now ON now.number = batches.version
    WHERE tasks.state = 2 AND ({OTHER_CODE}) OR tasks.finished_at > dependent.started_at
    UNION
    SELECT dependencies.task FROM dependencies JOIN tainted ON tainted.number = dependencies.needs
)
"""
# … and those of them that would become another result by running again: what the others need is to run before.
RUN_AGAIN = f"""tasks.state = 2 AND (({OTHER_CODE}) IS TRUE OR EXISTS (
    SELECT 1 FROM dependencies JOIN tasks AS needed ON needed.number = dependencies.needs
    WHERE dependencies.task = tasks.number AND needed.finished_at > tasks.started_at
))"""
IS_STALE = f"tasks.state = 2 AND ({OTHER_CODE} OR tasks.number IN (SELECT number FROM tainted))"

# Every field of a record and where it stands.
FIELDS = {
    "number": "tasks.number",
    "state": "tasks.state",
    "waits": "tasks.waits",
    "cancelling": "tasks.cancelling",
    "lane": "lanes.name",
    "priority": "tasks.priority",
    "batch": "batches.name",
    "position": "tasks.position",
    "function": "functions.name",
    "name": "tasks.name",
    "tags": "tasks.tags",
    "key": "tasks.key",
    "attempts": "tasks.attempt",
    "losses": "tasks.losses",
    "failures": "tasks.failures",
    "enqueued_at": "tasks.enqueued_at",
    "run_at": "tasks.run_at",
    "started_at": "tasks.started_at",
    "finished_at": "tasks.finished_at",
    "duration_s": "tasks.duration_s",
    "timeout_s": "tasks.timeout_s",
    "worker": "sessions.name",
    "error_type": "tasks.error_type",
    "error": "tasks.error",
    "params": "tasks.params",
    "fields": "tasks.fields",
    "stale": f"coalesce({IS_STALE}, 0)",
    "asked": "tasks.batch = 0 OR tasks.position IS NOT NULL",
    # Mostly nothing has labels, and none are looked for.
    "labels": "iif((SELECT 1 FROM labels LIMIT 1), (SELECT fields FROM labels WHERE task = tasks.number), NULL)",
}

TASKS = f"""
{TAINTED}
SELECT {{fields}}
FROM tasks
    JOIN lanes ON lanes.number = tasks.lane
    JOIN functions ON functions.number = tasks.function
    LEFT JOIN batches ON batches.number = abs(tasks.batch)
    LEFT JOIN versions AS made ON made.number = tasks.version
    LEFT JOIN versions AS now ON now.number = batches.version
    LEFT JOIN sessions ON sessions.number = tasks.session
WHERE tasks.number > ? AND {{condition}} ORDER BY tasks.number LIMIT ?
"""
# The same of a batch, whose index knows the numbers: else a page would sort, and so read, the whole batch.
TASKS_OF_BATCH = TASKS.replace(
    "tasks.number > ? AND {condition} ORDER BY tasks.number LIMIT ?",
    "tasks.number IN (SELECT number FROM tasks WHERE number > ? AND {condition} ORDER BY number LIMIT ?)"
    " ORDER BY tasks.number",
)


def records(fields: Iterable[str], condition: str, *, of_batch: bool) -> str:
    """Write the statement that reads these fields of tasks, behind a number and up to a limit."""
    told = ", ".join(f"{FIELDS[field]} AS {field}" for field in fields)
    return (TASKS_OF_BATCH if of_batch else TASKS).format(fields=told, condition=condition)


# One row for any number of tasks: to fetch a million of them takes seconds. FILTER and iif are no calls of functions as
# CASE in min() and max(x, y) are, and take 100 ms less for a million.
MEASURES = """
SELECT group_concat(state, ''),
    min(started_at) FILTER (WHERE state = 2),
    max(finished_at) FILTER (WHERE state = 2 AND started_at IS NOT NULL),
    group_concat(started_at - iif(run_at > enqueued_at, run_at, enqueued_at)),
    group_concat(CAST(duration_s * 1e9 AS INTEGER)) FILTER (WHERE state >= 2)  -- one that is retried has one, too
FROM tasks WHERE {condition} AND number > ? AND number <= ?
"""

# The last value of each name that an attempt logged: by the key, a seek or two for each name and none for other steps.
LOGGED = """
WITH RECURSIVE logged (name) AS (
    SELECT min(name) FROM metrics WHERE task = tasks.number AND attempt = tasks.attempt
    UNION ALL
    SELECT (SELECT min(name) FROM metrics
        WHERE task = tasks.number AND attempt = tasks.attempt AND name > logged.name)
    FROM logged WHERE name IS NOT NULL
)
SELECT json_group_object(name, (SELECT value FROM metrics
    WHERE task = tasks.number AND attempt = tasks.attempt AND name = logged.name ORDER BY step DESC LIMIT 1))
FROM logged WHERE name IS NOT NULL
"""
RESULTS = f"""
SELECT tasks.number, tasks.attempt, tasks.state,
    coalesce(tasks.value, (SELECT sealed FROM payloads WHERE task = tasks.number AND kind = 1)),
    tasks.error_type, tasks.error, tasks.traceback, tasks.enqueued_at, tasks.started_at, tasks.finished_at,
    tasks.duration_s, sessions.name, coalesce(tasks.name, functions.name), tasks.params,
    (SELECT notes FROM told WHERE task = tasks.number AND attempt = tasks.attempt),
    (SELECT sealed FROM outputs WHERE ?2 AND task = tasks.number AND attempt = tasks.attempt),
    tasks.fields, iif((SELECT 1 FROM metrics LIMIT 1), ({LOGGED}), NULL)
FROM tasks
    JOIN functions ON functions.number = tasks.function
    LEFT JOIN sessions ON sessions.number = tasks.session
WHERE tasks.number {{which}}
"""
RESULT_OF_ONE = RESULTS.format(which="= ?1")
RESULTS_OF_MANY = RESULTS.format(which="IN (SELECT value FROM json_each(?1))")

# The left side of a CROSS JOIN is read first: few tasks are running, and few told anything.
PROGRESS = """
SELECT task, told.attempt, done, total, message
FROM tasks INDEXED BY tasks_processing CROSS JOIN told ON task = tasks.number AND told.attempt = tasks.attempt
WHERE state = 1 AND done IS NOT NULL AND {condition} ORDER BY 1
"""
METRICS = """
SELECT task, metrics.attempt, metrics.name, step, metrics.value, at
FROM {tables} ON task = tasks.number WHERE {condition} ORDER BY task, metrics.attempt, step, metrics.name
"""
NOTES = """
SELECT task, notes FROM told CROSS JOIN tasks ON tasks.number = task AND tasks.attempt = told.attempt
WHERE notes IS NOT NULL AND {condition}
"""

STATES = "SELECT number, state FROM tasks WHERE number IN (SELECT value FROM json_each(?))"

NUMBERS_BEHIND = "SELECT number FROM tasks WHERE number > ? AND {condition} ORDER BY number LIMIT ?"

ATTEMPTS = """
WITH wanted (number) AS (SELECT value FROM json_each(?))
SELECT task, attempt, attempts.ended, attempts.started_at, finished_at, duration_s, sessions.name, error_type, error,
    traceback
FROM wanted JOIN attempts ON attempts.task = wanted.number LEFT JOIN sessions ON sessions.number = attempts.session
UNION ALL
SELECT tasks.number, attempt,
    CASE state WHEN 1 THEN 'processing' WHEN 2 THEN 'completed' WHEN 3 THEN 'failed' ELSE 'cancelled' END,
    tasks.started_at, finished_at, duration_s, sessions.name, error_type, error, traceback
FROM wanted JOIN tasks ON tasks.number = wanted.number LEFT JOIN sessions ON sessions.number = tasks.session
WHERE state <> 0 AND attempt > 0
    AND NOT EXISTS (SELECT 1 FROM attempts AS kept WHERE kept.task = tasks.number AND kept.attempt = tasks.attempt)
ORDER BY 1, 2
"""

SUPERSEDED = """
SELECT max(attempts.started_at, enqueued_at), attempts.finished_at, again_at
FROM attempts CROSS JOIN tasks ON tasks.number = task
WHERE attempts.started_at IS NOT NULL AND attempts.finished_at IS NOT NULL
    AND (?1 IS NULL OR lane = (SELECT number FROM lanes WHERE name = ?1))
"""

# The highest number ever given to a task.
LAST_TASK = """
SELECT max(coalesce((SELECT max(number) FROM tasks), 0), (SELECT value FROM meta WHERE name = 'last_deleted'))
"""

# The first lane's lone tasks are what no other row counted.
LONE = f"({LAST_TASK}) - (SELECT coalesce(sum(added), 0) FROM counts WHERE NOT (lane = 1 AND batch = 0))"
# processing is the count over the running index.
COUNTS = """
SELECT
    coalesce(sum(completed), 0), coalesce(sum(failed), 0), coalesce(sum(cancelled), 0),
    coalesce(sum(added - removed), 0) + {lone},
    (SELECT count(*) FROM tasks WHERE state = 1 AND {tasks})
FROM counts WHERE {counts}
"""

# By its index, or a batch of 100,000 takes 26 ms in which nothing waits.
HELD = """
SELECT count(*) FROM tasks INDEXED BY tasks_waiting
WHERE state = 0 AND waits <> 0 AND waits & 6 AND NOT waits & 32 AND {condition}
"""

RUNNING = """
SELECT tasks.number, coalesce(tasks.name, functions.name), params, started_at
FROM tasks INDEXED BY tasks_processing JOIN functions ON functions.number = tasks.function
WHERE state = 1 AND batch = ? ORDER BY started_at, tasks.number LIMIT ?
"""
IN_USE = "SELECT session, count(*) FROM tasks INDEXED BY tasks_processing WHERE state = 1 GROUP BY session"

BEST = """
SELECT number, value FROM (
    SELECT number, CASE WHEN json_type(fields, ?1) IN ('integer', 'real', 'true', 'false')
        THEN json_extract(fields, ?1) END AS value
    FROM tasks WHERE batch = ?2 AND batch <> 0 AND state = 2 AND json_valid(fields)
) WHERE value IS NOT NULL ORDER BY value {direction}, number LIMIT 1
"""
# Fields with a nan are no JSON for SQLite; they are looked at one by one.
ODD_FIELDS = """
SELECT number, fields FROM tasks
WHERE batch = ? AND batch <> 0 AND state = 2 AND fields IS NOT NULL AND NOT ({plain} AND json_valid(fields))
"""

FAILURES = """
SELECT error_type, count(*), min(number) FROM tasks WHERE state = 3 AND batch = ?
GROUP BY error_type ORDER BY 2 DESC, 3 LIMIT ?
"""
FAILURE = "SELECT error, traceback FROM tasks WHERE number = ?"

PACE = """
SELECT coalesce(sum(finished_at < ?2), 0), coalesce(sum(started_at >= ?2 AND state IN (2, 3)), 0),
    coalesce(max(CASE WHEN started_at >= ?2 THEN finished_at END)
        - min(CASE WHEN started_at >= ?2 THEN started_at END), 0) / 1e6,
    (SELECT coalesce(sum(next - last), 0) / 1e6 FROM (
        SELECT DISTINCT
            (SELECT max(finished_at) FROM tasks
                WHERE batch = ?1 AND batch <> 0 AND started_at >= ?2 AND finished_at <= moments.value) AS last,
            (SELECT min(started_at) FROM tasks WHERE batch = ?1 AND batch <> 0 AND started_at > moments.value) AS next
        FROM json_each(?3) AS moments))
FROM tasks WHERE batch = ?1 AND batch <> 0
"""

OF_ANY_LANE = "lane IN (SELECT number FROM lanes)"  # else the counts of every batch are read, to find those of one
BUSY = f"SELECT coalesce(sum(busy_s), 0.0) FROM counts WHERE batch = ? AND {OF_ANY_LANE}"

BATCHES = """
SELECT batches.number, batches.name, lanes.name, functions.name, batches.created_at, acked,
    added - removed, completed, failed, cancelled
FROM batches
    JOIN lanes ON lanes.number = batches.lane
    JOIN versions ON versions.number = batches.version
    JOIN functions ON functions.number = versions.function
    JOIN counts ON counts.lane = batches.lane AND counts.batch = batches.number
WHERE {condition} ORDER BY batches.number DESC
"""

OF_LANE = "unfinished = ?1 AND (?2 IS NULL OR lane = (SELECT number FROM lanes WHERE name = ?2))"
NEWEST = f"SELECT number FROM batches INDEXED BY batches_by_end WHERE {OF_LANE} ORDER BY number DESC LIMIT ?3"
MEANT = f"""
SELECT number FROM batches WHERE {OF_LANE} AND number IN (SELECT value FROM json_each(?4))
ORDER BY number DESC LIMIT ?3
"""
NEWEST_BATCHES = BATCHES.format(condition=f"batches.number IN (SELECT * FROM ({NEWEST}) UNION SELECT * FROM ({MEANT}))")
COUNT_BATCHES = f"SELECT count(*) FROM batches INDEXED BY batches_by_end WHERE {OF_LANE}"

POINTS = f"""
SELECT number, identity, occurrence, state, waits, position, version, batch < 0,
    state = 4 AND error_type IS '{ENDED_BY_RULE}', state = 3 AND error_type IS '{NEEDED_FAILED}' FROM tasks
WHERE batch IN (?1, -?1) AND identity IS NOT NULL ORDER BY number
"""
VERSIONS = """
SELECT versions.number, functions.number, functions.digest, functions.name, module, coroutine, source, x'', made_with,
    code, label, parts, fixed, record_result, versions.created_at, versions.number = batches.version,
    coalesce(made.tasks, 0)
FROM versions
    JOIN batches ON batches.number = versions.batch
    JOIN functions ON functions.number = versions.function
    LEFT JOIN (SELECT version, count(*) AS tasks FROM tasks WHERE batch = ?1 GROUP BY version) AS made
        ON made.version = versions.number
WHERE versions.batch = ?1 ORDER BY versions.number
"""
STALE = f"""
{TAINTED}
SELECT tasks.number, tasks.version FROM tasks
    JOIN batches ON batches.number = tasks.batch
    JOIN versions AS made ON made.number = tasks.version
    JOIN versions AS now ON now.number = batches.version
WHERE ((SELECT count(*) FROM versions WHERE batch = ?1) > 1 OR EXISTS (SELECT 1 FROM dependencies))  -- else none is
    AND tasks.batch = ?1 AND tasks.position IS NOT NULL AND {IS_STALE} ORDER BY position
"""
RUNS_AGAIN = f"""
SELECT tasks.number FROM tasks
    JOIN batches ON batches.number = tasks.batch
    JOIN versions AS made ON made.number = tasks.version
    JOIN versions AS now ON now.number = batches.version
WHERE tasks.batch = ?1 AND tasks.position IS NOT NULL AND {RUN_AGAIN} ORDER BY position
"""
STALE_NEEDS = f"""
WITH RECURSIVE above (number) AS (
    SELECT dependencies.needs FROM tasks JOIN dependencies ON dependencies.task = tasks.number
    WHERE tasks.batch = ?1 AND tasks.position IS NOT NULL AND tasks.state = 2
    UNION
    SELECT dependencies.needs FROM dependencies JOIN above ON above.number = dependencies.task
)
SELECT DISTINCT batches.number, batches.name FROM above
    JOIN tasks ON tasks.number = above.number
    JOIN batches ON batches.number = abs(tasks.batch)
    JOIN versions AS made ON made.number = tasks.version
    JOIN versions AS now ON now.number = batches.version
WHERE batches.number <> ?1 AND {RUN_AGAIN} ORDER BY batches.number
"""

TO_RETRY = """
SELECT batch, CASE batch WHEN 0 THEN function ELSE 0 END AS lone, json_group_array(number) FILTER (WHERE batch = 0)
FROM tasks WHERE state IN (3, 4) AND batch >= 0 AND {condition} GROUP BY batch, lone ORDER BY batch, lone
"""
FUNCTION = "SELECT number, digest, name, module, coroutine, source, sealed, made_with FROM functions WHERE number = ?"
VERSION = "SELECT number, function, fixed, record_result FROM versions WHERE number = ?"
STORED_CALL = """
SELECT number, attempt, function,
    coalesce(arguments, (SELECT sealed FROM payloads WHERE task = tasks.number AND kind = 0)),
    timeout_s, retry, losses, failures, version, lane, batch, depends, shares
FROM tasks WHERE number = ?
"""
NEEDED = "SELECT needs FROM dependencies WHERE task = ? AND is_argument ORDER BY needs"
LANES_LEFT = """
WITH RECURSIVE needed (number) AS (
    SELECT needs FROM dependencies JOIN tasks ON tasks.number = needs WHERE tasks.state < 2
        AND task IN (SELECT number FROM tasks WHERE {condition} AND state < 2 AND depends)
    UNION
    SELECT needs FROM needed
        JOIN dependencies ON task = needed.number
        JOIN tasks ON tasks.number = needs WHERE tasks.state < 2
)
SELECT name FROM lanes WHERE number IN (
    SELECT lane FROM tasks WHERE {condition} AND state < 2
    UNION SELECT lane FROM tasks WHERE number IN (SELECT number FROM needed)
) ORDER BY name
"""
SHARED = "SELECT sealed FROM shared WHERE digest = ?"
PAUSED = "SELECT paused FROM lanes WHERE name = ? OR number = 0 ORDER BY number DESC LIMIT 1"
# The tasks of a batch are looked for among a thousand that come next of each limit, and its own last thousand: however
# many tasks of another batch stand before them, a bar asks four times a second.
WAITS_FOR = """
SELECT name, starts, period, concurrency, paused_until FROM limits
WHERE (
        number IN (
            SELECT limited FROM (
                SELECT limited, state, waits FROM tasks INDEXED BY tasks_of_batch
                WHERE batch = ?1 AND batch <> 0 ORDER BY position DESC LIMIT 1000)
            WHERE state = 0 AND waits = 0)
        OR ?1 IN (
            SELECT batch FROM tasks INDEXED BY tasks_limited
            WHERE limited = limits.number AND state = 0 AND waits = 0 LIMIT 1000))
    AND (paused_until > ?2
        OR starts <= (
            SELECT total(json_extract(value, '$[2]')) FROM json_each(spent)
            WHERE json_extract(value, '$[1]') + period > ?2)
        OR concurrency <= (
            SELECT count(*) FROM tasks INDEXED BY tasks_limited_running WHERE limited = limits.number AND state = 1))
"""
PAUSED_OF = """
SELECT number, name, (
    SELECT count(*) FROM tasks INDEXED BY tasks_waiting
    WHERE state = 0 AND waits <> 0 AND waits & 2 AND batch = batches.number)
FROM batches WHERE (paused OR (stop_why IS NOT NULL AND NOT stop_ends))
    AND number IN (SELECT batch FROM json_each(?) AS one JOIN tasks ON tasks.number = one.value)
ORDER BY number
"""
PAUSER = f"""
SELECT {", ".join(SessionRow._fields)} FROM sessions WHERE number = (SELECT paused FROM batches WHERE number = ?)
"""
STOP = "SELECT stop_why, stop_ends FROM batches WHERE number = ? AND stop_why IS NOT NULL"
SESSIONS = f"SELECT {', '.join(SessionRow._fields)} FROM sessions WHERE ended IS NULL ORDER BY number"
CHANGES = "SELECT number, source, state, tasks FROM changes WHERE number > ? ORDER BY number"
CHANGES_BOUNDS = "SELECT coalesce((SELECT min(number) FROM changes), 0), coalesce((SELECT max(number) FROM changes), 0)"


def counts(lane: str | None, batch: int | None) -> tuple[str, list[Any]]:
    """Return the statement that counts the tasks of a lane, a batch or both, and its values."""
    values: list[Any] = []
    condition, lone = "1", LONE if batch is None and lane in (None, "default") else "0"
    if lane is not None:
        condition, values = "lane = (SELECT number FROM lanes WHERE name = ?)", [lane]
    if batch is not None:
        condition, values = f"{condition} AND batch = ?", [*values, batch]
    counts = condition if lane is not None or batch is None else f"{condition} AND {OF_ANY_LANE}"
    return COUNTS.format(lone=lone, tasks=condition, counts=counts), [*values, *values]


def to_counts(row: Sequence[int]) -> Counts:
    """Turn its row into records."""
    completed, failed, cancelled, total, processing = row
    return Counts(total - processing - completed - failed - cancelled, processing, completed, failed, cancelled)
