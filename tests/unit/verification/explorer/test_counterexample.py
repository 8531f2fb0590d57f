"""The drawing of a trace, and the command that makes it."""

import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from tests.unit.verification.explorer.mutants import MUTANTS, mutated

from quorate.cli.main import main
from quorate.verification.counterexample import Counterexample, Row
from quorate.verification.explorer import Explorer
from quorate.verification.spaces.zab import Bounds, ZabSpace
from quorate.verification.spaces.zab_story import tell


def example() -> Counterexample:
    ask, answer = Row(), Row()
    ask.say(0, "asks <everyone> & waits")
    ask.say(0, "-> 2: a question that is so long that it does not fit into one line of its lane")
    answer.say(1, "<- 1: a question")
    answer.arrows.append((0, 0, 1))
    return Counterexample("Broken: as planned", ["one", "two", "three"], [ask, answer])


def test_lanes_stand_side_by_side_and_steps_are_numbered() -> None:
    assert example().text(width=86).splitlines() == [
        "Broken: as planned",
        "a shortest trace to it, of 2 steps:",
        "",
        "step  one                       two                       three",
        "   1  asks <everyone> & waits",
        "        -> 2: a question that",
        "          is so long that it",
        "          does not fit into",
        "          one line of its lane",
        "   2                            <- 1: a question",
        "",
        "Broken: as planned",
    ]


class Page(HTMLParser):
    VOID = ("meta", "!doctype")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.arrows = 0
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        self.arrows += ("class", "arrow") in attrs

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.arrows += ("class", "arrow") in attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data.strip())


def parsed(page: str) -> Page:
    parser = Page()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    return parser


def test_the_page_is_well_formed_and_escapes_what_it_quotes() -> None:
    page = parsed(example().html())
    assert page.arrows == 1
    assert "asks <everyone> & waits" in page.texts
    assert {"one", "two", "three", "Broken: as planned"} <= set(page.texts)


def test_a_trace_of_zab_is_told_in_its_own_words() -> None:
    patches, limits, _ = MUTANTS["forgets the accepted epoch over a restart"]
    with mutated(*patches):
        space = ZabSpace(Bounds(**limits))
        found = Explorer(space).run()
        assert found.trace is not None
        story = tell(space, found.trace, found.violation)
    text = story.text(width=150)
    for words in (
        "is elected by 2", "-> 1: FOLLOWERINFO accepted epoch 0", "on disk: accepted epoch 1", "-> 2: LEADERINFO epoch 1",
        "-> 1: ACKEPOCH current epoch 0, last 0.0", "-> 3: NEWLEADER 1.0", "CRASHES", "starts again from its disk",
        "Leadership1: members 1 and 2 both lead epoch 1",
    ):  # fmt: skip
        assert words in text
    page = parsed(story.html())
    assert page.arrows == text.count("<- ")
    assert max(map(len, text.splitlines())) <= 150


# ---- the command


def test_the_command_says_what_was_visited(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explore", "zab", "--crashes", "0", "--epochs", "1"]) == 0
    out = capsys.readouterr().out
    assert "states generated" in out
    assert "no violation; every state within the bounds was visited" in out


@pytest.mark.parametrize(
    ("bound", "value"), [("--max-states", "100"), ("--depth", "9"), ("--time-budget", "0.000001s")]
)
def test_the_command_says_which_bound_ended_it(bound: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explore", "zab", bound, value]) == 0
    assert f"no violation in what was visited; {bound} ended it" in capsys.readouterr().out


def test_the_command_draws_a_violation_and_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    patches, _, _ = MUTANTS["commits with a minority"]
    page = tmp_path / "trace.html"
    with mutated(*patches):
        assert main(["explore", "zab", "--crashes", "0", "--epochs", "1", "--html", str(page)]) == 1
    out = capsys.readouterr().out
    assert "CommittedLogDurability: 1.1 was applied and is on the disk of 1 only" in out
    assert f"drawn in {page}" in out
    assert parsed(page.read_text()).arrows > 5


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["zab", "--time-budget", "5x"], "--time-budget '5x' is not a time"),
        (["zab", "--time-budget", "0"], "--time-budget '0' is not a time"),
        (["zab", "--members", "9"], "the number of members must be from 1 to 7, not 9"),
        (["zab", "--depth", "-1"], "--depth must not be negative"),
        (["raft"], "invalid choice: 'raft'"),
    ],
)
def test_the_command_refuses_in_one_sentence(
    words: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explore", *words]) == 2
    err = capsys.readouterr().err
    assert complaint in err
    assert err.count("\n") == 1


def test_progress_is_for_terminals_alone(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["explore", "zab", "--crashes", "0", "--depth", "5"]
    main(words)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    main(words)
    assert "depth 4: " in capsys.readouterr().err
