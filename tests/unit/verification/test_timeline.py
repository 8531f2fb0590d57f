"""Counter-examples drawn: the text as a whole, and the page as one that stands alone."""

from html.parser import HTMLParser
from itertools import count

from tests.unit.verification.workload import generate

from quorate.verification.history import History
from quorate.verification.linearizability import Failure, check
from quorate.verification.models import Model, Register
from quorate.verification.timeline import html_page, text_report

EXPECTED = """\
Until c's read → 1 ended there is an order of the operations; up to that end there is none.

The longest order ends with
         at the start  nothing
  1.  a  write 1       1
  2.  b  write 2       2

and none of these can come next:
  d  write 3 → ?  leads to 3, from where no order goes on
  c  read → 1     it read 1, the register holds 2

What ran when (the number is the place in that order; ✗ ended without one):
  a  write 1      1  ├─┤
  b  write 2      2      ├─┤
  c  read → 1                  ├─✗
  d  write 3 → ?             ├─────…
"""


def failed(history: History, model: Model) -> Failure:
    failure = check(history, model).failure
    assert failure is not None
    return failure


def stale_read(value: object = 3) -> Failure:
    ticks = count()
    history = History(lambda: next(ticks))
    history.end(history.invoke("a", "write", "<k>", 1), "ok")
    history.end(history.invoke("b", "write", "<k>", 2), "ok")
    history.end(history.invoke("d", "write", "<k>", value), "unknown") if value != 3 else history.invoke(
        "d", "write", "<k>", 3
    )
    history.end(history.invoke("c", "read", "<k>"), "ok", 1)
    third = history.invoke("c", "read", "<k>")
    history.end(third, "ok", value)
    return failed(history, Register())


def test_the_text() -> None:
    assert text_report(stale_read()) == EXPECTED


class Page(HTMLParser):
    """What is loaded, which elements are left open, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_stands_alone_and_shows_every_operation() -> None:
    text = html_page(stale_read())
    page = Page(text)
    assert page.open == []
    assert page.links == []
    assert "url(" not in text
    assert "//" not in text
    # a bar an operation: three writes and the read; the other is invoked after the failure
    assert page.tags.count("title") == 1 + 4
    assert "it read 1, the register holds 2" in page.text
    assert "No order of the operations on '<k>'" in page.text


def test_nothing_of_a_history_becomes_markup() -> None:
    text = html_page(stale_read("<script>alert(1)</script>"))
    assert Page(text).tags.count("script") == 1
    assert "&lt;script&gt;alert(1)" in text


def test_a_long_history_is_drawn_around_its_failure() -> None:
    history = generate("register", 6, operations=4000, clients=10, keys=1, stale=1)
    failure = failed(history, Register())
    text = text_report(failure)
    assert len(text.splitlines()) < 60
    assert max(map(len, text.splitlines())) < 200
    assert f"{failure.blocked.operation.process} " in text
    assert text.count("✗") == 2
    page = Page(html_page(failure))
    assert page.open == []
    assert page.tags.count("title") <= 601


def test_the_same_failure_is_drawn_the_same() -> None:
    assert html_page(stale_read()) == html_page(stale_read())
