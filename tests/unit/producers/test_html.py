from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers.html import html_text


def test_a_page_becomes_what_a_reader_sees() -> None:
    text, title = html_text(
        "<!doctype html><html><head><title> The  page </title><style>p {color: red}</style></head><body>"
        "<script>var x = '<p>no</p>';</script><h1>Head</h1><p>One &amp; two,\n  <b>bold</b>.</p>"
        "<ul><li>a</li><li>b</li></ul><pre>x\n  y</pre></body></html>"
    )
    assert title == "The page"
    assert text == "Head\n\nOne & two, bold.\n\na\n\nb\n\nx\ny"


def test_the_first_heading_is_the_title_where_there_is_none() -> None:
    assert html_text("<h2>First <i>one</i></h2><h1>Second</h1>")[1] == "First one"
    assert html_text("<p>no heading</p>")[1] is None


def test_the_title_of_a_drawing_is_not_the_title_of_the_page() -> None:
    assert html_text("<title>Page</title><svg><title>Icon</title></svg>") == ("", "Page")


@pytest.mark.parametrize(
    "markup", ["<", "<p", "<![foo[ text", "<!-- open", "&#xD800; &#0; &nope;", "</p></div>", "<script>open"]
)
def test_broken_markup_never_fails(markup: str) -> None:
    html_text(markup)


@given(st.text(alphabet=st.sampled_from("<>!/-[]&;#\"'= \npatitlescrxé\x00"), max_size=60))
def test_no_input_fails(markup: str) -> None:
    html_text(markup)


def test_a_megabyte_of_plain_paragraphs_is_quick() -> None:
    started = time.monotonic()
    text, _ = html_text("<p>some words</p>" * 60_000)
    assert text.count("some words") == 60_000
    assert time.monotonic() - started < 30
