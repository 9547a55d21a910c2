"""The signed envelope: nobody else's bytes are unpickled.

An envelope is ``version (1) · serializer (1) · key id (4) · MAC (32) · payload``.
The MAC covers what the payload is *for* (database, kind, row number, attempt or function digest), so that bytes moved
to another row are as foreign as forged ones.

Source: keyed BLAKE2b is a MAC by construction (RFC 7693, section 2.9).
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import struct
import warnings
from collections.abc import Sequence
from pathlib import Path

from sitq.errors import DeserializationError, InvalidArgument, UntrustedPayload, bad_type

VERSION = 1
HEADER = struct.Struct("<BB4s32s")
FUNCTION, ARGUMENTS, RESULT, SHARED, OUTPUT, CHECKPOINT = b"f", b"a", b"r", b"s", b"o", b"c"
ENVIRONMENT_VARIABLE = "SITQ_KEY"


class Sealer:
    """Signs and checks the payloads of one database.

    Parameters
    ----------
    database_id : bytes
        Part of every MAC.
    keys : sequence of bytes
        The first one signs; all of them are accepted (rotation).

    Examples
    --------
    >>> sealer = Sealer(b"database", [b"k" * 32])
    >>> envelope = sealer.seal(ARGUMENTS, 7, b"", 1, b"payload")
    >>> sealer.open(ARGUMENTS, 7, b"", envelope)
    (1, b'payload')
    """

    def __init__(self, database_id: bytes, keys: Sequence[bytes]):
        self._macs = {key_id(key): hashlib.blake2b(database_id, key=key, digest_size=32) for key in keys}
        self._key_id = key_id(keys[0])
        self._mac = self._macs[self._key_id]

    def seal(self, kind: bytes, number: int, extra: bytes, serializer: int, payload: bytes) -> bytes:
        """Sign a payload.

        Parameters
        ----------
        kind : bytes
            FUNCTION, ARGUMENTS, RESULT, SHARED, OUTPUT or CHECKPOINT.
        number : int
            Row number of the task; 0 for what is named by its digest.
        extra : bytes
            Arguments: the digest of their function; results and output: the attempt, as 4 bytes; checkpoints: none;
            else the digest.
        """
        mac = self._mac.copy()
        mac.update(b"%c%c%d:%d:%b" % (kind, serializer, number, len(extra), extra))
        mac.update(payload)
        return HEADER.pack(VERSION, serializer, self._key_id, mac.digest()) + payload

    def open(self, kind: bytes, number: int, extra: bytes, envelope: bytes) -> tuple[int, bytes]:
        """Check an envelope and return its serializer and payload.

        Raises
        ------
        UntrustedPayload
            Not signed with one of our keys, for this row.
        DeserializationError
            There is nothing: a copy left it out.
        """
        if not envelope:
            raise DeserializationError(
                "it is not in this file, a backup with payloads=False: that has what to_frame() shows, and no calls,"
                " results and outputs"
            )
        if len(envelope) < HEADER.size:
            raise UntrustedPayload("the stored bytes are no signed envelope: they were not written by sitq")
        version, serializer, key, digest = HEADER.unpack_from(envelope)
        if version != VERSION:
            raise UntrustedPayload(f"the stored bytes have envelope version {version}; this sitq reads {VERSION}")
        if key not in self._macs:
            raise UntrustedPayload(
                "the stored bytes were signed with a key that is not here: nothing was unpickled. Pass that key as"
                f" key=…, or set {ENVIRONMENT_VARIABLE}. Status, frames and statistics need no key."
            )
        mac = self._macs[key].copy()
        payload = envelope[HEADER.size :]
        mac.update(b"%c%c%d:%d:%b" % (kind, serializer, number, len(extra), extra))
        mac.update(payload)
        if not hmac.compare_digest(mac.digest(), digest):
            raise UntrustedPayload(
                "the stored bytes do not match their signature: they were changed, or moved from another task or"
                " database. Nothing was unpickled."
            )
        return serializer, payload


def key_id(key: bytes) -> bytes:
    """Name a key without telling it."""
    return hashlib.blake2b(key, digest_size=4, person=b"sitq key").digest()


def find_keys(key: str | bytes | Sequence[str | bytes] | None, beside: Path) -> list[bytes]:
    """Find the signing keys.

    They are ``key=``, else ``SITQ_KEY``, else a file in the user's data folder, else one beside the database.

    Parameters
    ----------
    key : str, bytes, or a sequence of them, optional
        At least 16 bytes each; text is encoded as UTF-8. The first one signs.
    beside : Path
        The database, for the last resort.
    """
    if key is None and (text := os.environ.get(ENVIRONMENT_VARIABLE)):
        key = text.split(",")
    if key is not None:
        if not isinstance(key, str | bytes | Sequence):
            raise bad_type("key", "<hidden>", "str, bytes or a list of them")
        listed = [key] if isinstance(key, str | bytes) else list(key)
        if not listed:
            raise InvalidArgument("key must not be an empty list")
        return [_checked(k) for k in listed]
    import platformdirs

    home = Path(platformdirs.user_data_path("sitq", appauthor=False)) / "key"
    try:
        return [_read_or_create(home)]
    except OSError as error:
        fallback = beside.with_name(beside.name + ".key")
        if not fallback.exists():
            warnings.warn(
                f"no signing key can be kept in {home.parent} ({error.strerror}): it is kept in {fallback} instead;"
                " keep that file with the database",
                stacklevel=2,
            )
        return [_read_or_create(fallback)]


def _checked(key: str | bytes) -> bytes:
    if not isinstance(key, str | bytes):
        raise bad_type("key", "<hidden>", "str or bytes")  # a secret is in no error
    raw = key.encode() if isinstance(key, str) else key
    if len(raw) < 16:
        raise InvalidArgument(f"key must have at least 16 bytes, not {len(raw)}")
    return raw if len(raw) <= 64 else hashlib.blake2b(raw).digest()  # BLAKE2b takes keys of up to 64 bytes


def _read_or_create(path: Path) -> bytes:
    try:
        return _read(path)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # Written whole under another name and linked in place, so that a second process never reads half a key.
    whole = path.with_name(f"{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    descriptor = os.open(whole, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(os.urandom(32))
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(whole, path)
    finally:
        whole.unlink()
    return _read(path)


def _read(path: Path) -> bytes:
    raw = path.read_bytes()
    if len(raw) != 32:
        raise InvalidArgument(f"the key file {path} is damaged: it has {len(raw)} bytes, not 32")
    return raw
