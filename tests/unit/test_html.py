"""Bars and cards as HTML and text: true, safe and short."""

import json
import re
import time
from collections import deque
from datetime import datetime
from html.parser import HTMLParser
from typing import Any

import pytest

from sitq.errors import UntrustedPayload, shown
from sitq.models import Counts, FailureGroup, Status, Task
from sitq.notebook.cards import (
    batch_card,
    batch_line,
    counts_card,
    queue_card,
    queue_line,
    worker_card,
    worker_line,
)
from sitq.notebook.html import BLANK, bar_html, bar_text, failures_html, lines_of
from sitq.notebook.pieces import COLOURS, SIGNS
from sitq.notebook.record_cards import result_card, result_line, task_card, task_line
from sitq.notebook.words import clean, ending, masked, one_line, tail
from sitq.overview import Overview
from sitq.reports import DISPLAY
from sitq.results import Result
from sitq.snapshots import Best, RunningTask, Snapshot

EVIL = {
    "script": "<script>alert(1)</script>",
    "attribute": "\" onmouseover='alert(1)' x=\"",
    "entity": "&lt;b&gt;",
    "colours": "\x1b[31mred\x1b[0m",
    "title of a terminal": "\x1b]0;owned\x07",
    "control": "a\x00b\x08c\x9bd",
    "bidi": "abc\u202efdp.exe\u2066",
    "half a pair": "\ud83d",
    "separator": "a\u2028b",
    "megabyte": "x" * 1_000_000,
}


def snapshot(name: str = "svc", **changes: Any) -> Snapshot:
    usual: dict[str, Any] = {"counts": Counts(pending=42, processing=8, completed=52, failed=3), "kept": 0, "held": 0}
    usual |= {"elapsed_s": 4.5, "rate": 12.3, "eta_s": (5.0, 8.0), "in_use": 8, "slots": 8}
    return Snapshot(name, **usual | changes)


def overview(**changes: Any) -> Overview:
    usual: dict[str, Any] = {"at": datetime(2026, 1, 1, 12, 30, 5), "counts": Counts(pending=5, completed=2)}
    return Overview(**usual | changes)


def test_a_live_bar_keeps_the_place_of_lines_that_come_and_go() -> None:
    task = RunningTask("7k2m9qpa-x4tqe", "train", {}, 2.0)
    full, less = snapshot(longest=(task, task), warnings=("no worker", "it is full")), snapshot(longest=(task,))
    room = lines_of(full, ["paused"])
    assert room == {"running": 2, "warnings": 2, "notes": 1}
    assert bar_html(full, notes=["paused"], room=room) == bar_html(full, notes=["paused"])
    for drawn in (bar_html(less, room=room), bar_html(snapshot(), room=room)):
        lines = {
            "running": drawn.count("sitq-running") + drawn.count(BLANK["running"]),
            "warnings": drawn.count("sitq-warning") + drawn.count(BLANK["warnings"]),
            "notes": drawn.count("sitq-note") + drawn.count(BLANK["notes"]),
        }
        assert lines == room


def group(text: str = "bad", count: int = 3, **changes: Any) -> FailureGroup:
    return FailureGroup(
        **{"error_type": "ValueError", "error": text, "count": count, "task_id": "id", "traceback": text} | changes
    )


def result(**changes: Any) -> Result:
    usual: dict[str, Any] = dict.fromkeys(Result.__dataclass_fields__)
    usual |= {"task_id": "7k2m9qpa-x4tqe", "status": Status.COMPLETED, "duration_s": 0.25, "notes": {}}
    usual |= {"finished_at": datetime(2026, 1, 1, 12), "attempts": 1, "worker": "w", "name": "train", "params": {}}
    usual["_read_output"] = list
    return Result(**usual | {"_load": lambda: pytest.fail("unpickled")} | changes)


def said(text: str) -> dict[str, Any]:
    """What a task tells besides."""
    printed = [("stdout", f"loss: {text}\n"), (DISPLAY, '{"data": {}}'), ("stderr", text)]
    recorded = json.dumps({text: text})
    return {"notes": {text: text}, "_read_output": lambda: printed, "_fields": recorded, "_logged": recorded}


def task(**changes: Any) -> Task:
    usual: dict[str, Any] = dict.fromkeys(Task.__dataclass_fields__)
    usual |= {"task_id": "7k2m9qpa-x4tqe", "status": Status.PENDING, "function": "train", "attempts": 0, "params": {}}
    return Task(**usual | {"waits": 0} | changes)


class Reader(HTMLParser):
    """What a browser would make of it."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.open.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def drawings(text: str) -> dict[str, str]:
    """Everything that is drawn, with the text in every place that others write."""
    failed = {"status": Status.FAILED, "error": text, "error_type": text, "traceback": text}
    whole = snapshot(
        text,
        warnings=(text,),
        failures=(group(text, error_type=text, task_id=text),),
        longest=(RunningTask(text, text, {text: text}, 5.0, 1.0, 2.0, text),),
        best=(Best(text, "max", 1.0, text, {text: text}),),
    )
    return {
        "live": bar_html(whole, notes=[text]),
        "final": bar_html(whole, final=True),
        "batch": batch_card(text, 105, whole),
        "batch nobody looked at": batch_card(text, 105, None),
        "failures": failures_html(whole.failures),
        "queue": queue_card(text, lane=text, state=text, slots=1, overview=overview(paused=True)),
        "worker": worker_card(text, state=text, concurrency=1, running=1, done=1, lanes=[text]),
        "result": result_card(result(name=text, worker=text, params={text: text}, **said(text), **failed)),
        "task": task_card(task(name=text, function=text, batch=text, worker=text, error=text, error_type=text)),
    }


def lines(text: str) -> dict[str, str]:
    """Every line of text, with the text in every place that others write."""
    failed = {"status": Status.FAILED, "error": text, "error_type": text, "traceback": text}
    return {
        "queue": queue_line("TaskQueue", text, text, 8, overview()),
        "worker": worker_line(text, text, 1, 1, 1),
        "batch": batch_line(text, 105, snapshot(text)),
        "batch nobody looked at": batch_line(text, 105, None),
        "result": result_line(result(name=text, worker=text, params={text: text}, **failed)),
        "completed": result_line(result(name=text, params={text: text}, **said(text))),
        "task": task_line(task(name=text, batch=text, position=3, error=text, error_type=text)),
        "task without a name": task_line(task(function=text)),
    }


@pytest.mark.parametrize("evil", EVIL)
@pytest.mark.parametrize("what", lines(""))
def test_a_line_is_one_line_short_and_harmless_whatever_others_wrote(what: str, evil: str) -> None:
    line = lines(EVIL[evil])[what]
    assert len(line) < 500
    line.encode()
    assert not re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u202a-\u202e\u2066-\u2069]", line)


@pytest.mark.parametrize("evil", EVIL)
@pytest.mark.parametrize("what", drawings(""))
def test_what_others_wrote_is_escaped_cut_and_harmless(what: str, evil: str) -> None:
    html = drawings(EVIL[evil])[what]
    read = Reader(html)
    assert read.open == []
    assert set(read.tags) <= {
        "b",
        "bdi",
        "code",
        "details",
        "div",
        "i",
        "pre",
        "progress",
        "span",
        "summary",
        "table",
        "td",
        "tr",
    }
    assert {name for name, _ in read.attributes} <= {
        *("class", "style", "title", "role", "aria-label", "data-done", "data-left", "data-total", "value", "max")
    }
    assert len(html) < 40_000
    html.encode()
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u202a-\u202e\u2066-\u2069]", html)


@pytest.mark.parametrize("what", drawings(""))
def test_no_formula_is_typeset(what: str) -> None:
    html = drawings("$x^2$")[what]
    assert "$x^2$" in html
    assert re.match(r'<div class="[^"]*\btex2jax_ignore\b[^"]*\bmathjax_ignore\b', html)


@pytest.mark.parametrize("what", drawings(""))
def test_nothing_needs_a_style_sheet_a_script_or_a_picture(what: str) -> None:
    assert not {"style", "script", "svg", "img", "link", "iframe"} & set(Reader(drawings("x")[what]).tags)


# Words


def test_colours_of_terminals_go_and_other_controls_are_replaced() -> None:
    assert clean("\x1b[1;31mred\x1b[0m\n\tnext", 80) == "red\n\tnext"
    assert clean("a\x1b]0;title\x07b\u202ec\x00", 80) == "a�b�c�"


@pytest.mark.alone
def test_megabytes_cost_no_more_than_a_line() -> None:
    text = "\x1b[31m" * 10_000_000
    begun = time.perf_counter()
    assert len(one_line(text, 80)) <= 80
    assert time.perf_counter() - begun < 0.02


def test_text_is_cut_with_a_sign_and_never_longer_than_asked() -> None:
    assert one_line("abcdef", 4) == "abc…"
    assert one_line("abcd", 4) == "abcd"
    assert len(clean("\x1b[31m" * 1000 + "x" * 1000, 10)) <= 10


def test_a_traceback_keeps_its_end() -> None:
    assert tail("first line\nsecond line\nthe cause", 15) == "… the cause"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://ada:s3cret@db:5432/lab", "postgresql://ada:***@db:5432/lab"),
        ("postgresql://ada:p@ss/w:rd@db/lab", "postgresql://ada:***@db/lab"),
        ("postgresql://db/lab?user=ada&password=s3cret", "postgresql://db/lab?user=ada&password=***"),
        ("host=db password='s3 cret' user=ada", "host=db password=*** user=ada"),
        ("digits.db", "digits.db"),
    ],
)
def test_passwords_are_masked(url: str, shown: str) -> None:
    assert masked(url) == shown
    assert "cret" not in queue_card(url, slots=None, overview=None) + queue_line("TaskQueue", url, "", None, None)


# The bar


def test_the_text_is_one_true_line() -> None:
    assert (
        bar_text(snapshot())
        == "svc ━━━━━───── 55/105 done · 50 left · 3 failed · 12.3/s · 0:04 elapsed · ETA 0:05–0:08"
    )
    assert "\n" not in bar_text(snapshot("two\nlines", warnings=("three\nmore\nlines",)))


def test_what_was_kept_is_not_counted_as_done() -> None:
    kept = snapshot(counts=Counts(pending=50, completed=175), kept=120)
    assert bar_text(kept).startswith("svc ━━━━━━━─── 120 kept · 55 done · 50 left · ")
    assert "120 kept · 55 done · 50 left" in Reader(bar_html(kept)).text


def test_a_batch_that_was_whole_before_tells_no_time_since_nothing_ran() -> None:
    kept = snapshot(counts=Counts(completed=115, failed=5), kept=120, elapsed_s=0.0, rate=None, eta_s=None)
    assert bar_text(kept) == "svc ━━━━━━━━━━ 120 kept · 0 done · 0 left · 5 failed"
    text = Reader(bar_html(kept, final=True)).text
    assert "120 kept · 0 done · 0 left" in text
    assert "took" not in text


@pytest.mark.parametrize("final", [False, True])
def test_stale_results_stand_out_in_the_bar_and_in_words(final: bool) -> None:
    told = "45 by version 1: EPOCHS 10 → 20 · `await batch.rerun(stale=True)`"
    html = bar_html(snapshot(counts=Counts(completed=60, failed=3), stale=45, warnings=(told,)), final=final)
    text = Reader(html).text
    assert "15 completed" in text
    assert "45 stale" in text
    assert f"background: {COLOURS['stale']}" in html
    assert "45 by version 1: EPOCHS 10 → 20 · await batch.rerun(stale=True)" in text
    assert ">await batch.rerun(stale=True)</code>" in html
    assert "stale" not in bar_html(snapshot(counts=Counts(completed=60)), final=final)


def test_the_text_tells_stale_results_and_what_to_do_about_them() -> None:
    told = "45 by version 1: train: 2 lines changed; EPOCHS 10 → 20 · `await batch.rerun(stale=True)`"
    bar = snapshot(counts=Counts(completed=60), kept=45, eta_s=None, stale=45, warnings=(told,))
    assert bar_text(bar) == (
        "svc ━━━━━━━━━━ 45 kept · 15 done · 0 left · 45 stale · 12.3/s · took 0:04"
        " · ! 45 by version 1: train: 2 lines changed; EPOCHS 10 → 20 · `await batch.rerun(stale=True)`"
    )


def test_a_long_warning_keeps_its_remedy() -> None:
    told = f"{'x' * 240} · `await batch.rerun(stale=True)`"
    assert "`await batch.rerun(stale=True)`" in bar_text(snapshot(warnings=(told,)))
    assert ">await batch.rerun(stale=True)</code>" in bar_html(snapshot(warnings=(told,)))


def test_code_of_a_user_in_a_warning_is_escaped() -> None:
    html = bar_html(snapshot(warnings=("train: `x < <b>` → `x`lone",)))
    assert "x &lt; &lt;b&gt;</code> → <code" in html


def test_a_finished_batch_tells_how_long_it_took_and_no_eta() -> None:
    done = snapshot(counts=Counts(completed=100, failed=5), eta_s=None)
    assert bar_text(done) == "svc ━━━━━━━━━━ 105/105 done · 5 failed · 12.3/s · took 0:04"


def test_a_batch_of_less_than_a_second_is_told_in_milliseconds() -> None:
    done = snapshot(counts=Counts(completed=100, failed=5), eta_s=None, elapsed_s=0.25)
    assert bar_text(done).endswith("took 250 ms")


def test_a_line_is_cut_to_the_width_of_its_terminal() -> None:
    assert len(bar_text(snapshot(), width=40)) == 40


@pytest.mark.parametrize("total", [0, 1, 1_000_000])
def test_a_bar_of_any_size_is_small(total: int) -> None:
    html = bar_html(snapshot(counts=Counts(pending=total), rate=None, eta_s=None))
    assert len(html) < 4_000
    assert f"{total:,} left" in Reader(html).text


def test_every_state_stands_in_words_beside_its_colour() -> None:
    counts = Counts(pending=40, processing=8, completed=52, failed=3, cancelled=2)
    html = bar_html(snapshot(counts=counts, held=10))
    for n, state in (
        (52, "completed"),
        (3, "failed"),
        (8, "processing"),
        (30, "pending"),
        (10, "held"),
        (2, "cancelled"),
    ):
        assert f"{n} {state}" in Reader(html).text
        assert COLOURS[state] in html


def test_the_picture_has_a_text_alternative() -> None:
    html = bar_html(snapshot())
    assert 'role="img" aria-label="svc: 52 completed, 3 failed, 8 processing, 42 pending"' in html


def test_states_differ_by_more_than_their_colours() -> None:
    counts = Counts(pending=40, processing=8, completed=52, failed=3, cancelled=2)
    html = bar_html(snapshot(counts=counts, held=10, stale=5))
    pictures = re.findall(r'<div style="width: [^"]*?; background: #(\w+)([^"]*)" title="[\d,]+ (\w+)"', html)
    assert [state for *_, state in pictures] == list(COLOURS)
    patterns = {state: re.sub(r"#\w+", "", pattern) for _, pattern, state in pictures}
    plain = [state for state, pattern in patterns.items() if not pattern]
    assert plain == ["completed", "pending"]
    assert len({patterns[state] for state in patterns if state not in plain}) == 5

    def lightness(state: str) -> float:
        red, green, blue = (int(COLOURS[state][i : i + 2], 16) / 255 for i in (1, 3, 5))
        return 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2

    assert (lightness("pending") + 0.05) / (lightness("completed") + 0.05) > 1.6
    assert all(f"</span> {SIGNS[state]} " in html for state in COLOURS), "and by a sign in the legend"


def test_tests_can_read_the_numbers() -> None:
    assert 'data-done="55" data-left="50" data-total="105"' in bar_html(snapshot())
    assert '<span class="sitq-done">55</span>' in bar_html(snapshot())  # a page that is not trusted strips data-*


def test_a_live_bar_tells_slots_eta_and_warnings_but_not_failures() -> None:
    text = Reader(bar_html(snapshot(warnings=("nothing runs: no worker",), failures=(group(),)))).text
    assert "8 of 8 slots in use" in text
    assert "ETA 0:05–0:08" in text
    assert "nothing runs: no worker" in text
    assert "ValueError" not in text


def test_a_live_bar_tells_what_runs_for_how_long() -> None:
    tasks = tuple(RunningTask("id", "train", {"C": 10.0, "note": "a<b"}, 72.0 - n) for n in range(2))
    text = Reader(bar_html(snapshot(longest=tasks))).text
    assert "▸ train(C=10.0, note='a<b') 1:12▸ train(C=10.0, note='a<b') 1:11" in text
    assert "train" not in bar_html(snapshot(longest=tasks), final=True)


def test_a_running_task_tells_its_own_progress() -> None:
    tasks = (
        RunningTask("id", "train", {}, 72.0, done=30, total=1200, message="epoch <3>"),
        RunningTask("id", "load", {}, 5.0, done=0.5),
        RunningTask("id", "odd", {}, 5.0, done=7, total=5),
        RunningTask("id", "nothing", {}, 5.0, done=0, total=0),
    )
    html = bar_html(snapshot(longest=tasks))
    text = Reader(html).text
    assert "▸ train 1:12  30 of 1,200 · epoch <3>▸ load 0:05 0.5▸ odd 0:05  7 of 5▸ nothing 0:05 0 of 0" in text
    assert re.findall(r'<progress style="[^"]*" value="(\S+)" max="1" aria-label="([^"]*)">', html) == [
        ("0.0250", "30 of 1,200"),
        ("1.0000", "7 of 5"),
    ]


@pytest.mark.parametrize("final", [False, True])
def test_the_best_so_far_stands_in_the_bar_and_in_the_text(final: bool) -> None:
    best = (Best("accuracy", "max", 0.98532, "7k2m9qpa-x4tqe", {"C": 10}), Best("loss", "min", 2.0), Best("", "max"))
    drawn = snapshot(best=best)
    text = Reader(bar_html(drawn, final=final)).text
    assert "★ best accuracy 0.98532 \xa0C=10 · task 7k2m9qpa-x4tqe★ best loss 2 (min)" in text
    assert "★ best result: no result has such a number yet" in text
    assert " · best accuracy 0.98532 · best loss 2 (min) · best result: no " in bar_text(drawn)


def test_overhead_of_more_than_thirty_percent_is_told() -> None:
    told = "overhead is 64 %: a task runs for 1.2 ms and takes its slot for 3.3 ms; fewer, larger tasks would be faster"
    high = snapshot(means_s=(0.0012, 0.0033))
    assert told in Reader(bar_html(high)).text
    assert told in Reader(bar_html(high, final=True)).text
    assert f"! {told}" in bar_text(high)
    assert "overhead" not in bar_html(snapshot(means_s=(0.71, 1.0))) + bar_html(snapshot())


def test_failures_that_stay_name_what_runs_them_again() -> None:
    html = bar_html(snapshot(counts=Counts(completed=102, failed=3), failures=(group(),)), final=True)
    assert "run them again: <code>await batch.retry()</code>" in html
    assert "retry()" not in bar_html(snapshot(counts=Counts(completed=105)), final=True)
    some_cancelled = snapshot(counts=Counts(completed=102, failed=3, cancelled=9), failures=(group(),))
    assert "run them again: <code>await queue.retry(await batch.failed())</code>" in bar_html(
        some_cancelled, final=True
    )


def test_the_final_bar_tells_the_whole_story() -> None:
    done = snapshot(counts=Counts(completed=102, failed=3), eta_s=None, failures=(group("C must be positive"),))
    html = bar_html(done, final=True, at=datetime(2026, 1, 1, 12, 30))
    text = Reader(html).text
    assert "105 done · 0 left" in text
    assert "took 0:04 · 2026-01-01 12:30" in text
    assert "3 × ValueError: C must be positive" in text
    assert "<details" in html
    assert "<pre" in html
    assert "slots" not in text


def test_a_final_bar_of_an_unfinished_batch_says_that_it_is_a_moment() -> None:
    text = Reader(bar_html(snapshot(), final=True)).text
    assert "50 left · as it was when this was drawn" in text
    assert "ETA" not in text


def test_a_live_bar_tells_its_moment() -> None:
    assert "at 12:30:05" in Reader(bar_html(snapshot(), at=datetime(2026, 1, 1, 12, 30, 5))).text


def test_at_most_twenty_failures_are_listed_and_the_rest_is_a_number() -> None:
    groups = tuple(group(f"number {n}") for n in range(20))
    failed = sum(one.count for one in groups)
    for more in (0, 5):
        told = snapshot(counts=Counts(pending=1, failed=failed + more), failures=groups)
        for final in (True, False):
            html = bar_html(told, final)
            assert Reader(html).tags.count("details") == (20 if final else 0)
            assert ("… 5 more failures, of other types: await batch.errors()" in Reader(html).text) == bool(more)
    assert failures_html([]) == ""


# Cards


def test_a_result_card_never_unpickles() -> None:
    read = result()
    assert "value" not in Reader(result_card(read)).text
    read.__dict__["value"] = {"accuracy": 0.98}
    assert "value{'accuracy': 0.98}" in Reader(result_card(read)).text


def test_a_result_card_tells_what_was_cancelled_while_it_ran_from_what_never_ran() -> None:
    waited = result(status=Status.CANCELLED, duration_s=None, attempts=0)
    assert "tookdid not run" in Reader(result_card(waited)).text
    ran = result(status=Status.CANCELLED, duration_s=None, started_at=datetime(2026, 1, 1, 11))
    assert "tookdid not come to its end" in Reader(result_card(ran)).text


def test_a_value_whose_repr_fails_has_a_card() -> None:
    class Broken:
        def __repr__(self) -> str:
            raise RuntimeError

    read = result()
    read.__dict__["value"] = Broken()
    assert "<Broken>" in Reader(result_card(read)).text


def test_a_result_tells_what_was_recorded_of_its_value_without_decoding_it() -> None:
    read = result(_fields='{"accuracy": 0.98, "kernel": "rbf"}', _logged='{"loss": 0.5}', params={"C": 0.1})
    text = Reader(result_card(read)).text
    assert text.index("result.accuracy0.98") < text.index("metric.loss0.5") < text.index("took")
    assert result_line(read) == ("<Result 7k2m9qpa-x4tqe completed in 250 ms: accuracy=0.98, kernel='rbf' (C=0.1)>")
    scalar = result(_fields='{"": 3}')
    assert "value3took" in Reader(result_card(scalar)).text
    assert result_line(scalar) == "<Result 7k2m9qpa-x4tqe completed in 250 ms: 3>"
    scalar.__dict__["value"] = 3
    assert Reader(result_card(scalar)).text.count("value") == 1


def test_much_that_was_recorded_is_cut_and_damaged_text_is_left_out() -> None:
    many = {f"f{n}": "x" * 100 for n in range(25)}
    read = result(_fields=json.dumps(many), _logged=json.dumps(many), params=many)
    assert result_card(read).count("… 5 more") == 3
    assert result_line(read).count("…, …") == 2
    assert len(result_line(read)) < 400
    for damaged in ("{", "[1]", "3"):
        assert result_line(result(_fields=damaged)) == "<Result 7k2m9qpa-x4tqe completed in 250 ms>"
        assert "took" in result_card(result(_fields=damaged, _logged=damaged))


def test_a_failed_result_unfolds_its_traceback() -> None:
    html = result_card(result(status=Status.FAILED, error="no", error_type="ValueError", traceback="Traceback …"))
    assert "<details" in html
    assert "Traceback …" in Reader(html).text


def test_a_result_unfolds_what_its_task_printed() -> None:
    html = result_card(result(**said("0.1")))
    assert re.search(r"<details[^>]*><summary[^>]*>output: 2 lines</summary><pre[^>]*>loss: 0\.1\n0\.1</pre>", html)
    assert "output" not in result_card(result())


def test_a_result_whose_output_is_a_strangers_has_a_card_without_it() -> None:
    def refuse() -> list[tuple[str, str]]:
        raise UntrustedPayload("not ours")

    assert "output" not in Reader(result_card(result(_read_output=refuse))).text


def test_notes_of_a_result_are_told_beside_its_parameters() -> None:
    text = Reader(result_card(result(params={"C": 0.1}, notes={"note": "diverged", "epochs": 7}))).text
    assert "param.C0.1" in text
    assert "note.epochs7" in text
    assert "note'diverged'" in text
    assert "… 5 more" in result_card(result(notes={f"n{n}": n for n in range(25)}))


def test_a_queue_card_tells_lane_worker_and_tasks_and_when_they_were_seen() -> None:
    seen = overview(counts=Counts(pending=5, completed=2), held=3, workers=2, slots=12)
    text = Reader(queue_card("digits.db", slots=8, state="connected", overview=seen)).text
    for told in ("digits.db", "connected", "8 slots; 2 workers in all with 12 slots", "12:30:05"):
        assert told in text
    assert "7: 2 completed, 2 pending, 3 held" in text
    assert "3 held: await queue.resume() lets them go" in text
    assert "none in this process" in Reader(queue_card("digits.db", slots=None, overview=None)).text


def test_a_queue_card_says_what_keeps_tasks_from_running() -> None:
    def warned(**changes: Any) -> list[str]:
        return re.findall(r"⚠</b> <bdi>(\w+)", queue_card("x.db", slots=None, overview=overview(**changes)))

    pending = Counts(pending=5)
    assert warned(counts=pending, workers=0) == ["nothing"]
    assert warned(counts=pending, workers=1) == warned(counts=pending, workers=None) == []
    assert warned(counts=Counts(completed=5), workers=0) == []
    assert warned(counts=pending, workers=1, paused=True, held=5) == ["paused"]


def test_a_path_keeps_its_end() -> None:
    path = f"/{'far/' * 100}digits.db"
    assert "digits.db" in Reader(queue_card(path, slots=None, overview=None)).text
    assert "digits.db' connected" in queue_line("TaskQueue", path, "connected", None, None)
    assert (ending("abcdef", 4), ending("abcd", 4)) == ("…def", "abcd")


def test_counts_are_told_in_words_beside_their_bar() -> None:
    text = Reader(counts_card(Counts(pending=1, completed=3, failed=1))).text
    assert "5 tasks" in text
    assert "3 completed, 1 failed, 1 pending" in text
    assert "no tasks" in Reader(counts_card(Counts())).text


def test_of_a_value_of_many_items_only_those_are_asked_that_are_shown() -> None:
    asked: list[int] = []

    class Item:
        def __repr__(self) -> str:
            asked.append(1)
            return "i"

    many = [Item()] * 10_000
    for value in (many, tuple(many), {0: many}, dict.fromkeys(range(10_000), many[0]), deque(many), [many] * 1000):
        read = result()
        read.__dict__["value"] = value
        assert "i, " in Reader(result_card(read)).text or "i, 1: " in shown(value)
        assert len(asked) <= 160, type(value)
        asked.clear()
    assert shown("x" * 10_000_000) == "'" + "x" * 78 + "…"


def test_what_fits_is_shown_as_its_repr_and_a_ring_has_an_end() -> None:
    ring: list[Any] = [1]
    ring.append(ring)
    for value in ((1,), set(), frozenset({2}), {"a": (1, [2])}, deque([1]), "it's", b"x", 2.5, None):
        assert shown(value) == repr(value)
    assert shown(ring).startswith("[1, [1, [1")


def test_a_task_card_tells_why_it_waits() -> None:
    from sitq.models import Waits

    assert "pending (scheduled, held)" in Reader(task_card(task(waits=Waits.SCHEDULED | Waits.LEFT))).text


def test_a_card_with_many_parameters_lists_twenty() -> None:
    html = result_card(result(params={f"p{n}": n for n in range(30)}))
    assert "… 10 more" in html
    assert "param.p19" in html
    assert "param.p20" not in html
