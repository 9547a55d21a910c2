"""The reading statements of SQLite. Each is fetched whole: a half-read cursor would keep checkpoints from working."""

from __future__ import annotations

from sitq.rows import SessionRow

SLICE = 500  # numbers in one read of results: larger ones stall the loop that decodes them

TASKS = """
SELECT tasks.number, tasks.state, tasks.waits, tasks.cancelling, lanes.name, tasks.priority, batches.name,
    tasks.position, functions.name, tasks.name, tasks.tags, tasks.key, tasks.attempt, tasks.losses, tasks.failures,
    tasks.enqueued_at, tasks.run_at, tasks.started_at, tasks.finished_at, tasks.duration_s, tasks.timeout_s,
    sessions.name, tasks.error_type, tasks.error, tasks.params, tasks.fields
FROM tasks
    JOIN lanes ON lanes.number = tasks.lane
    JOIN functions ON functions.number = tasks.function
    LEFT JOIN batches ON batches.number = tasks.batch
    LEFT JOIN sessions ON sessions.number = tasks.session
WHERE tasks.number > ? AND {condition} ORDER BY tasks.number LIMIT ?
"""

RESULTS = """
SELECT tasks.number, tasks.attempt, tasks.state,
    coalesce(tasks.value, (SELECT sealed FROM payloads WHERE task = tasks.number AND kind = 1)),
    tasks.error_type, tasks.error, tasks.traceback, tasks.enqueued_at, tasks.started_at, tasks.finished_at,
    tasks.duration_s, sessions.name, coalesce(tasks.name, functions.name), tasks.params
FROM tasks
    JOIN functions ON functions.number = tasks.function
    LEFT JOIN sessions ON sessions.number = tasks.session
WHERE tasks.number {which}
"""
RESULT_OF_ONE = RESULTS.format(which="= ?")
RESULTS_OF_MANY = RESULTS.format(which="IN (SELECT value FROM json_each(?))")

STATES = "SELECT number, state FROM tasks WHERE number IN (SELECT value FROM json_each(?))"

ATTEMPTS = """
SELECT task, attempt, attempts.ended, attempts.started_at, finished_at, duration_s, sessions.name, error_type, error
FROM attempts LEFT JOIN sessions ON sessions.number = attempts.session WHERE task = ?1
UNION ALL
SELECT tasks.number, attempt,
    CASE state WHEN 1 THEN 'processing' WHEN 2 THEN 'completed' WHEN 3 THEN 'failed' ELSE 'cancelled' END,
    tasks.started_at, finished_at, duration_s, sessions.name, error_type, error
FROM tasks LEFT JOIN sessions ON sessions.number = tasks.session WHERE tasks.number = ?1 AND state <> 0 AND attempt > 0
    AND NOT EXISTS (SELECT 1 FROM attempts AS kept WHERE kept.task = ?1 AND kept.attempt = tasks.attempt)
ORDER BY 2
"""

# processing is the count over the running index; the first lane's lone tasks are what no other row counted.
COUNTS = """
SELECT
    coalesce(sum(completed), 0), coalesce(sum(failed), 0), coalesce(sum(cancelled), 0),
    coalesce(sum(added - removed), 0)
        + CASE WHEN {lone} THEN (SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'tasks')
            - (SELECT coalesce(sum(added), 0) FROM counts WHERE NOT (lane = 1 AND batch = 0)) ELSE 0 END,
    (SELECT count(*) FROM tasks WHERE state = 1 AND {tasks})
FROM counts WHERE {counts}
"""

HELD = "SELECT count(*) FROM tasks WHERE state = 0 AND waits <> 0 AND waits & 6 AND {condition}"

FAILURES = """
SELECT error_type, count(*), min(number) FROM tasks WHERE state = 3 AND batch = ?
GROUP BY error_type ORDER BY 2 DESC, 3 LIMIT ?
"""
FAILURE = "SELECT error, traceback FROM tasks WHERE number = ?"

SPAN = "SELECT (max(finished_at) - min(started_at)) / 1e6 FROM tasks WHERE batch = ? AND batch <> 0"

BATCHES = """
SELECT batches.number, batches.name, lanes.name, functions.name, batches.created_at, acked,
    added - removed, completed, failed, cancelled
FROM batches
    JOIN lanes ON lanes.number = batches.lane
    JOIN versions ON versions.batch = batches.number AND ordinal = 1
    JOIN functions ON functions.number = versions.function
    JOIN counts ON counts.lane = batches.lane AND counts.batch = batches.number
WHERE {condition} ORDER BY batches.number DESC
"""

FUNCTION = "SELECT number, digest, name, module, coroutine, source, sealed, made_with FROM functions WHERE number = ?"
VERSION = "SELECT number, function, fixed, record_result FROM versions WHERE number = ?"
SHARED = "SELECT sealed FROM shared WHERE digest = ?"
PAUSED = "SELECT 1 FROM lanes WHERE name = ? AND paused"
SESSIONS = f"SELECT {', '.join(SessionRow._fields)} FROM sessions WHERE ended IS NULL ORDER BY number"

CHANGES = "SELECT number, source, state, tasks FROM changes WHERE number > ? ORDER BY number"
CHANGES_BOUNDS = "SELECT coalesce(min(number), 0), coalesce(max(number), 0) FROM changes"
LAST_TASK = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'tasks'"
