"""Names and lists of them in sentences."""

from __future__ import annotations

from stages.words import MAX_NAME, in_order, shown, some_of


def test_a_long_list_of_names_is_cut() -> None:
    assert some_of(["a", "b\n", "c\udce9", "d", "e"]) == "a, b?, c? and 2 more"
    assert some_of(["a", "b", "c"]) == "a, b, c"
    assert some_of(iter(["a"])) == "a"
    assert some_of([]) == ""


def test_of_many_names_the_first_are_enough() -> None:
    assert some_of(["a", "b", "c"], 90) == "a, b, c and 87 more"
    assert some_of(["a"], 1) == "a"


def test_a_long_name_is_cut() -> None:
    assert shown("x" * MAX_NAME) == "x" * MAX_NAME
    assert shown("x" * (MAX_NAME + 1)) == "x" * (MAX_NAME - 3) + "..."


def test_a_few_names_are_sorted() -> None:
    assert in_order({".b", ".a"}) == ".a, .b"
