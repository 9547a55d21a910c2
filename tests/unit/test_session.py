"""Who is judged dead: by pid and start time on the same host, by the beat elsewhere, and never by a wall clock."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from sitq import liveness
from sitq.liveness import AWAY_S, Observer, Place, here, start_ticks
from sitq.rows import SessionRow
from sitq.session import BEAT_S

LEASE_S = 30.0
ELSEWHERE = Place("another host", "its boot", 1)


def living(place: Place | None = None, number: int = 1, **changed: object) -> SessionRow:
    """A session of this very process, or of a process in another place."""
    host, boot_id, namespace = place or here()
    row = SessionRow(
        number,
        "token",
        "worker",
        "w",
        host,
        boot_id,
        namespace,
        os.getpid(),
        start_ticks(os.getpid()) or 0,
        4,
        1,
        0,
        "",
    )
    return row._replace(**changed)


@pytest.fixture
def observer() -> Observer:
    return Observer(LEASE_S)


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    started = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    yield started
    started.kill()
    started.communicate()


def test_a_living_process_of_this_host_is_never_judged_dead_by_its_beat(observer: Observer) -> None:
    for second in range(10 * round(LEASE_S)):
        assert observer.dead([living()], float(second)) == []


def test_a_process_that_is_gone_is_dead_at_the_first_look(observer: Observer, child: subprocess.Popen[bytes]) -> None:
    row = living(pid=child.pid, start_ticks=start_ticks(child.pid))
    assert observer.dead([row], 0.0) == []
    child.kill()
    child.wait()
    assert observer.dead([row], 0.0) == [1]


def test_a_zombie_is_dead_though_its_pid_exists(observer: Observer, child: subprocess.Popen[bytes]) -> None:
    row = living(pid=child.pid, start_ticks=start_ticks(child.pid))
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # ended, and not waited for
    os.kill(child.pid, 0)  # the pid is there
    assert observer.dead([row], 0.0) == [1]


def test_a_pid_that_another_process_has_now_is_dead(observer: Observer) -> None:
    assert observer.dead([living(start_ticks=(start_ticks(os.getpid()) or 0) - 1)], 0.0) == [1]


def test_the_start_time_is_read_behind_a_name_with_spaces_and_parentheses(monkeypatch: pytest.MonkeyPatch) -> None:
    fields = "S " + " ".join(str(n) for n in range(4, 53))
    monkeypatch.setattr(liveness, "_read", lambda path: f"77 (a ) (b) R 1 2) {fields}")
    assert start_ticks(77) == 22  # field 22 of proc(5)
    monkeypatch.setattr(liveness, "_read", lambda path: f"77 (x) Z {fields[2:]}")
    assert start_ticks(77) is None


def test_the_start_time_does_not_follow_the_wall_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    before = start_ticks(os.getpid())
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 3600)
    assert start_ticks(os.getpid()) == before


def test_a_session_of_an_earlier_boot_of_this_host_is_dead_though_its_pid_runs(observer: Observer) -> None:
    assert observer.dead([living(boot_id="the boot before")], 0.0) == [1]


def test_another_pid_namespace_is_never_judged_by_pid(observer: Observer) -> None:
    other_container = living(pid_namespace=here().pid_namespace + 1, pid=2**22 + 1, start_ticks=1)
    assert observer.dead([other_container], 0.0) == []
    assert observer.dead([other_container._replace(beat=2)], 4.0) == []


def test_another_host_is_never_judged_by_pid_or_boot(observer: Observer) -> None:
    assert observer.dead([living(ELSEWHERE, pid=2**22 + 1)], 0.0) == []


def look(observer: Observer, beats: Iterator[int], seconds: float, begin: float = 0.0) -> list[float]:
    """Look once a beat; the moments at which it was judged dead."""
    moments = [begin + n * BEAT_S for n in range(round(seconds / BEAT_S))]
    return [
        now for now, beat in zip(moments, beats, strict=False) if observer.dead([living(ELSEWHERE, beat=beat)], now)
    ]


def test_elsewhere_a_beat_that_stands_still_for_a_whole_lease_is_dead_and_not_before(observer: Observer) -> None:
    assert look(observer, iter([7] * 100), LEASE_S + 1)[0] == LEASE_S


def test_elsewhere_a_beat_that_goes_on_lives_for_ever(observer: Observer) -> None:
    assert look(observer, iter(range(10_000)), 1000.0) == []
    assert look(observer, (n // 25 for n in range(10_000)), 1000.0, 1000.0) == []  # slow, and within the lease


def test_a_beat_that_goes_back_is_a_change_too(observer: Observer) -> None:
    assert look(observer, iter([9] * 29 + [3] * 29), 58.0) == []


def test_an_observer_that_was_away_forgets_what_it_saw(observer: Observer) -> None:
    assert look(observer, iter([7] * 100), LEASE_S - 1) == []
    back = LEASE_S - 1 + AWAY_S + 1  # a lid was closed, perhaps over both
    assert look(observer, iter([7] * 100), LEASE_S + 1, back) == [back + LEASE_S]


@pytest.mark.parametrize("lease_s", [4.0, 10.0, 30.0])
@pytest.mark.parametrize("pause_s", [5.5, 3600.0])
def test_all_suspended_together_nobody_is_robbed(lease_s: float, pause_s: float) -> None:
    observer = Observer(lease_s)
    for now in (0.0, 1.0, 1.0 + pause_s):  # the other one wakes a little later than we do
        assert observer.dead([living(ELSEWHERE, beat=5)], now) == []
    assert observer.dead([living(ELSEWHERE, beat=6)], 2.0 + pause_s) == []


def test_the_wall_clock_takes_no_part(observer: Observer, monkeypatch: pytest.MonkeyPatch) -> None:
    for now, jump in enumerate((0, 3600, -7200, 10**6)):
        monkeypatch.setattr(time, "time", lambda jump=jump: 1.7e9 + jump)
        monkeypatch.setattr(time, "time_ns", lambda jump=jump: int((1.7e9 + jump) * 1e9))
        assert observer.dead([living(ELSEWHERE), living(number=2)], float(now)) == []


def test_sessions_are_judged_each_for_itself_and_forgotten_when_they_are_gone(observer: Observer) -> None:
    still = living(ELSEWHERE, beat=5)
    for second in range(round(LEASE_S)):
        assert observer.dead([still, living(ELSEWHERE, 2, beat=second)], float(second)) == []
    assert observer.dead([still, living(ELSEWHERE, 2, beat=99)], LEASE_S) == [1]
    assert observer.dead([], LEASE_S + 1) == []
    assert observer.dead([still], LEASE_S + 2) == [], "seen for the first time"
