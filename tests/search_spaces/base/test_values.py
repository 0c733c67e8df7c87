import math
from typing import Annotated

import pytest

from search_spaces.base.values import Between, Finite, Positive, decimal, described, fits, whole_number


@pytest.mark.parametrize("text", ["12", "-0.5", "1e-3", " 7 ", "+.5", "3."])
def test_decimals_are_numbers(text: str) -> None:
    assert decimal(text) == float(text)


@pytest.mark.parametrize("text", ["٣", "1_000", "", "0x10", "1 2", "½"])
def test_texts_without_ascii_digits_are_no_decimals(text: str) -> None:
    with pytest.raises(ValueError, match="no number|could not convert"):
        decimal(text)


def test_whole_numbers_are_ascii_and_have_no_zeros_in_front() -> None:
    assert [whole_number(text) for text in ("0", "7", "120")] == [0, 7, 120]
    assert {whole_number(text) for text in ("", "08", "-1", "+1", "1.0", "٣", "1_0", " 1", "9" * 40)} == {None}


def test_bounds_in_an_annotation_hold() -> None:
    hint = Annotated[int, Between(1, 9)]
    assert [fits(value, hint) for value in (0, 1, 9, 10, 1.0, True, "1")] == [False, True, True, *[False] * 4]
    assert fits((1, 9), tuple[hint, ...]) and not fits((1, 10), tuple[hint, ...])
    assert fits(None, hint | None) and not fits(0, hint | None)
    assert not any(fits(value, Finite) for value in (math.nan, math.inf, -math.inf))
    assert fits(-1.5, Finite) and fits(1e-9, Positive) and not fits(0.0, Positive)
    assert described(hint | None) == "int from 1 to 9 or null"
    assert [described(one) for one in (Finite, Positive)] == ["a finite number", "a finite number > 0"]
