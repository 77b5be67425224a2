"""The sentences of errors."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stages.errors import SiteUnavailable


@given(st.text() | st.sampled_from(["\x1b[2J", "\u202e", "\ud800", "a\nb", "\u2028", "x" * 10**6]))
def test_what_a_site_words_is_one_short_line_that_steers_no_terminal(text: str) -> None:
    error = SiteUnavailable("a", text)
    assert str(error).isprintable()
    assert len(str(error)) <= 2000
    assert str(error).startswith("site a: ")
    assert str(error) == f"site a: {text}" or not text.isprintable() or len(text) > 1900
