"""Public ids: a row number of one database, as text that tells tasks apart and cannot be taken for another's."""

from __future__ import annotations

import hashlib

from sitq.errors import TaskNotFound, bad_type

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base32: no i, l, o, u
PAIRS = [a + b for a in ALPHABET for b in ALPHABET]
VALUE = {c: i for i, c in enumerate(ALPHABET)}
BITS = 40  # a row number: 8 characters
MASK = (1 << BITS) - 1
HALF = BITS // 2
CHECK_MASK = (1 << 25) - 1  # the check: 5 characters
CHECK_FOLD = 15
LENGTH = 14  # 8 characters, a dash and 5
MANY = 10_000  # ids that pay for numpy


class PublicIds:
    """A keyed bijection between the row numbers of one database and its public ids.

    Multiplying by an odd number and folding the upper half into the lower one, twice, is a bijection on 40 bits:
    no column and no index is needed, and neighbours look nothing alike.

    Parameters
    ----------
    database_id : bytes
        Random and unique; the bijection's key. An id of another database fails its check.

    Examples
    --------
    >>> ids = PublicIds(b"some database")
    >>> ids.number(ids.text(7))
    7
    >>> len(ids.text(7))
    14
    """

    def __init__(self, database_id: bytes):
        digest = hashlib.blake2b(database_id, digest_size=32).digest()
        self._a, self._b, self._c, self._salt = (
            int.from_bytes(digest[i : i + 8], "little") & MASK | 1 for i in range(0, 32, 8)
        )
        self._a_back = pow(self._a, -1, 1 << BITS)
        self._b_back = pow(self._b, -1, 1 << BITS)

    def text(self, number: int) -> str:
        """Return the public id of a row number."""
        x = number * self._a & MASK
        x ^= x >> HALF
        x = x * self._b & MASK
        x ^= x >> HALF
        check = self._check(number)
        pairs = PAIRS
        return (
            f"{pairs[x >> 30]}{pairs[x >> 20 & 1023]}{pairs[x >> 10 & 1023]}{pairs[x & 1023]}"
            f"-{ALPHABET[check >> 20]}{pairs[check >> 10 & 1023]}{pairs[check & 1023]}"
        )

    def texts(self, numbers: list[int]) -> list[str]:
        """Return the public ids of many row numbers."""
        if len(numbers) < MANY:
            return list(map(self.text, numbers))
        import numpy as np  # a third of the time for 100,000, and a frame of them has numpy anyway

        letters = np.frombuffer(ALPHABET.encode(), dtype=np.uint8)
        given = np.array(numbers, dtype=np.uint64)
        a, b, c, salt, mask, half, check_fold = (
            np.uint64(n) for n in (self._a, self._b, self._c, self._salt, MASK, HALF, CHECK_FOLD)
        )
        x = given * a & mask  # what overflows 64 bits is beyond the mask
        x ^= x >> half
        x = x * b & mask
        x ^= x >> half
        check = (given ^ salt) * c & mask
        check ^= check >> check_fold
        made = np.full((len(given), LENGTH), ord("-"), dtype=np.uint8)
        for part, places in ((x, range(8)), (check, range(9, LENGTH))):
            for place in places:
                made[:, place] = letters[(part >> np.uint64(5 * (places[-1] - place)) & np.uint64(31)).astype(np.intp)]
        text = made.tobytes().decode("ascii")
        return [text[at : at + LENGTH] for at in range(0, len(text), LENGTH)]

    def number(self, task_id: str) -> int:
        """Return the row number of a public id.

        Raises
        ------
        InvalidType
            Not a ``str``.
        TaskNotFound
            Malformed, or an id of another database.
        """
        if not isinstance(task_id, str):
            raise bad_type("task_id", task_id, "a task id, a str as enqueue() returns it")
        if len(task_id) != LENGTH or task_id[8] != "-":
            raise TaskNotFound(task_id, "not a task id; ids look like 'k3v9x2ma-7qd4e'")
        try:
            x = 0
            for character in task_id[:8]:
                x = x << 5 | VALUE[character]
            check = 0
            for character in task_id[9:]:
                check = check << 5 | VALUE[character]
        except KeyError:
            raise TaskNotFound(task_id, "not a task id; ids look like 'k3v9x2ma-7qd4e'") from None
        x ^= x >> HALF
        x = x * self._b_back & MASK
        x ^= x >> HALF
        number = x * self._a_back & MASK
        if check != self._check(number) or number == 0:
            raise TaskNotFound(task_id, "not a task of this database; is it of another file, or mistyped?")
        return number

    def _check(self, number: int) -> int:
        x = (number ^ self._salt) * self._c & MASK
        return (x ^ x >> CHECK_FOLD) & CHECK_MASK
