"""Public ids: a keyed bijection with a check."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sitq.errors import InvalidType, TaskNotFound
from sitq.ids import ALPHABET, BITS, MANY, PublicIds

IDS = PublicIds(b"a database of sixteen b")
NUMBERS = st.integers(1, (1 << BITS) - 1)


@given(NUMBERS)
def test_an_id_leads_back_to_its_number(number: int) -> None:
    assert IDS.number(IDS.text(number)) == number


@given(st.binary(min_size=1, max_size=32), NUMBERS)
def test_every_database_has_a_bijection(database: bytes, number: int) -> None:
    ids = PublicIds(database)
    assert ids.number(ids.text(number)) == number


def test_no_two_numbers_share_an_id_nor_its_first_eight() -> None:
    texts = IDS.texts(list(range(1, 20_001)))
    assert len(set(texts)) == len({text[:8] for text in texts}) == 20_000
    assert texts[6] == IDS.text(7)


def test_many_ids_at_once_are_those_made_one_by_one() -> None:
    numbers = [*range(1, MANY), *(2**bit - 1 for bit in range(1, BITS + 1))]
    assert IDS.texts(numbers) == list(map(IDS.text, numbers))


def test_neighbours_look_nothing_alike() -> None:
    for number in range(1, 500):
        one, other = IDS.text(number), IDS.text(number + 1)
        assert sum(a == b for a, b in zip(one[:8], other[:8], strict=True)) <= 4


@given(st.text(alphabet=ALPHABET, min_size=8, max_size=8), st.text(alphabet=ALPHABET, min_size=5, max_size=5))
def test_a_made_up_id_is_not_found(head: str, tail: str) -> None:
    text = f"{head}-{tail}"
    with suppress(TaskNotFound):  # one in 33 million is a real one
        assert IDS.text(IDS.number(text)) == text


def test_an_id_of_another_database_is_not_found() -> None:
    other = PublicIds(b"another database")
    for number in range(1, 300):
        with pytest.raises(TaskNotFound, match="another file"):
            IDS.number(other.text(number))


def test_one_wrong_character_is_noticed() -> None:
    text = IDS.text(12345)
    for at in (0, 3, 7, 9, 13):
        for character in ALPHABET:
            wrong = text[:at] + character + text[at + 1 :]
            if wrong != text:
                with pytest.raises(TaskNotFound):
                    IDS.number(wrong)


@pytest.mark.parametrize(
    "text", ["", "x", "k3v9x2ma7qd4e", "k3v9x2ma-7qd4", "K3V9X2MA-7QD4E", "ilouilou-iloui", "é" * 14]
)
def test_what_is_no_id_is_not_found(text: str) -> None:
    with pytest.raises(TaskNotFound, match="ids look like"):
        IDS.number(text)


@pytest.mark.parametrize("value", [None, 5, b"k3v9x2ma-7qd4e", ["k3v9x2ma-7qd4e"]])
def test_an_id_is_a_str(value: object) -> None:
    with pytest.raises(InvalidType, match="task_id"):
        IDS.number(value)  # type: ignore[arg-type]


def test_the_first_and_last_number_have_ids() -> None:
    assert IDS.number(IDS.text(1)) == 1
    assert IDS.number(IDS.text((1 << BITS) - 1)) == (1 << BITS) - 1
    with pytest.raises(TaskNotFound):
        IDS.number(IDS.text(0))
