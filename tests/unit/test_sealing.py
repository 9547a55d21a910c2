"""The seal: nobody else's bytes are opened; where the key comes from."""

import multiprocessing
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sitq.errors import InvalidArgument, InvalidType, UntrustedPayload
from sitq.sealing import ARGUMENTS, FUNCTION, HEADER, RESULT, SHARED, Sealer, find_keys

KEY, OTHER = b"k" * 32, b"o" * 32
SEALER = Sealer(b"database", [KEY])
KINDS = st.sampled_from([FUNCTION, ARGUMENTS, RESULT, SHARED])
NUMBERS = st.integers(0, 2**40)


@given(KINDS, NUMBERS, st.binary(max_size=40), st.integers(1, 255), st.binary(max_size=300))
def test_what_was_sealed_is_opened(kind: bytes, number: int, extra: bytes, serializer: int, payload: bytes) -> None:
    envelope = SEALER.seal(kind, number, extra, serializer, payload)
    assert SEALER.open(kind, number, extra, envelope) == (serializer, payload)


@given(st.binary(min_size=1, max_size=60), st.data())
def test_a_changed_bit_is_noticed(payload: bytes, data: st.DataObject) -> None:
    envelope = bytearray(SEALER.seal(ARGUMENTS, 7, b"d", 1, payload))
    at = data.draw(st.integers(0, len(envelope) * 8 - 1))
    envelope[at // 8] ^= 1 << at % 8
    with pytest.raises(UntrustedPayload):
        SEALER.open(ARGUMENTS, 7, b"d", bytes(envelope))


@pytest.mark.parametrize(
    ("kind", "number", "extra"),
    [
        (RESULT, 7, b"extra"),
        (ARGUMENTS, 8, b"extra"),
        (ARGUMENTS, 71, b"xtra"),
        (ARGUMENTS, 7, b"other"),
        (ARGUMENTS, 7, b""),
    ],
)
def test_bytes_moved_elsewhere_are_foreign(kind: bytes, number: int, extra: bytes) -> None:
    envelope = SEALER.seal(ARGUMENTS, 7, b"extra", 1, b"payload")
    with pytest.raises(UntrustedPayload, match="moved"):
        SEALER.open(kind, number, extra, envelope)


def test_extra_and_payload_do_not_run_into_each_other() -> None:
    envelope = SEALER.seal(ARGUMENTS, 7, b"ab", 1, b"cd")
    moved = envelope[: HEADER.size] + b"bcd"
    with pytest.raises(UntrustedPayload):
        SEALER.open(ARGUMENTS, 7, b"a", moved)


def test_bytes_of_another_database_are_foreign() -> None:
    envelope = Sealer(b"another", [KEY]).seal(ARGUMENTS, 7, b"", 1, b"payload")
    with pytest.raises(UntrustedPayload):
        SEALER.open(ARGUMENTS, 7, b"", envelope)


def test_bytes_signed_with_another_key_are_foreign_and_the_remedy_is_named() -> None:
    envelope = Sealer(b"database", [OTHER]).seal(ARGUMENTS, 7, b"", 1, b"payload")
    with pytest.raises(UntrustedPayload, match="SITQ_KEY"):
        SEALER.open(ARGUMENTS, 7, b"", envelope)


def test_a_key_id_does_not_make_a_forgery_trusted() -> None:
    forged = bytearray(Sealer(b"database", [OTHER]).seal(ARGUMENTS, 7, b"", 1, b"payload"))
    forged[2:6] = SEALER.seal(ARGUMENTS, 7, b"", 1, b"payload")[2:6]
    with pytest.raises(UntrustedPayload):
        SEALER.open(ARGUMENTS, 7, b"", bytes(forged))


@pytest.mark.parametrize("envelope", [b"x", b"\x80\x05N." * 20])
def test_what_is_no_envelope_is_foreign(envelope: bytes) -> None:
    with pytest.raises(UntrustedPayload):
        SEALER.open(ARGUMENTS, 7, b"", envelope)


def test_keys_rotate() -> None:
    old = SEALER.seal(ARGUMENTS, 7, b"", 1, b"old")
    both = Sealer(b"database", [OTHER, KEY])
    assert both.open(ARGUMENTS, 7, b"", old) == (1, b"old")
    new = both.seal(ARGUMENTS, 7, b"", 1, b"new")
    assert Sealer(b"database", [OTHER]).open(ARGUMENTS, 7, b"", new) == (1, b"new")
    with pytest.raises(UntrustedPayload):
        SEALER.open(ARGUMENTS, 7, b"", new)


# ---- where keys come from ----
@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path / "data" / "sitq" / "key"


def test_a_key_is_made_once_and_is_private(home: Path, tmp_path: Path) -> None:
    (key,) = find_keys(None, tmp_path / "a.db")
    assert len(key) == 32
    assert find_keys(None, tmp_path / "b.db") == [key]
    assert home.read_bytes() == key
    assert stat.S_IMODE(home.stat().st_mode) == 0o600
    assert stat.S_IMODE(home.parent.stat().st_mode) == 0o700
    assert list(home.parent.iterdir()) == [home]  # no half-written one beside it


def test_processes_that_make_the_key_at_once_agree(home: Path, tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        keys = pool.map(one_key, [tmp_path / f"{i}.db" for i in range(24)], chunksize=1)
    assert len(set(keys)) == 1


def one_key(beside: Path) -> bytes:
    return find_keys(None, beside)[0]


def test_the_environment_comes_before_the_file(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SITQ_KEY", "a secret of enough bytes,an older one of enough bytes")
    assert find_keys(None, tmp_path / "a.db") == [b"a secret of enough bytes", b"an older one of enough bytes"]
    assert not home.exists()


def test_the_argument_comes_before_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SITQ_KEY", "a secret of enough bytes")
    assert find_keys("another of enough bytes", tmp_path / "a.db") == [b"another of enough bytes"]
    assert find_keys([b"one of sixteen b", "two of sixteen b"], tmp_path) == [b"one of sixteen b", b"two of sixteen b"]
    assert len(find_keys("x" * 100, tmp_path)[0]) == 64  # BLAKE2b takes no longer ones


def test_without_a_data_folder_the_key_lies_beside_the_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "file"))
    database = tmp_path / "a.db"
    with pytest.warns(UserWarning, match="no signing key can be kept"):
        (key,) = find_keys(None, database)
    beside = tmp_path / "a.db.key"
    assert beside.read_bytes() == key
    assert stat.S_IMODE(beside.stat().st_mode) == 0o600
    assert find_keys(None, database) == [key]  # and no second warning


@pytest.mark.parametrize("key", ["short", b"short", [], "", ["long enough, this one", "short"]])
def test_a_bad_key_is_refused(key: object, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="key"):
        find_keys(key, tmp_path)  # type: ignore[arg-type]


@pytest.mark.parametrize("key", [5, [5], {"a secret": 1}.keys(), object()])
def test_an_error_never_shows_a_key(key: object, tmp_path: Path) -> None:
    with pytest.raises((InvalidType, InvalidArgument)) as caught:
        find_keys(key, tmp_path)  # type: ignore[arg-type]
    assert "a secret" not in str(caught.value)


def test_a_damaged_key_file_is_named_and_left_alone(home: Path, tmp_path: Path) -> None:
    home.parent.mkdir(parents=True)
    home.write_bytes(b"half a ke")
    with pytest.raises(InvalidArgument, match="damaged"):
        find_keys(None, tmp_path / "a.db")
    assert home.read_bytes() == b"half a ke"


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_an_unreadable_key_file_falls_back_beside_the_database(home: Path, tmp_path: Path) -> None:
    home.parent.mkdir(parents=True)
    home.write_bytes(KEY)
    home.chmod(0)
    with pytest.warns(UserWarning, match="no signing key"):
        find_keys(None, tmp_path / "a.db")
