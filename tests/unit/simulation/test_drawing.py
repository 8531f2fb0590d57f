"""A drawn run: one page that needs nothing else, whose layout agrees with the trace. The script runs in node and in Chromium."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from tests.unit.simulation.lockservice import SIMULATION

from quorate.simulation import trace as kinds
from quorate.simulation.drawing import page, strikes
from quorate.simulation.result import Result
from quorate.simulation.trace import Event
from quorate.simulation.tracefile import lines

NODE = shutil.which("node")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

needs_node = pytest.mark.skipif(NODE is None, reason="node is not installed")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")


class _Scripts(HTMLParser):
    """The texts of the scripts, and every address that the page would load."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.loads: list[str] = []
        self.tags: list[str] = []
        self._inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag == "script":
            self._inside = True
            self.texts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.texts[-1] += data


def parsed(text: str) -> tuple[dict[str, Any], str, _Scripts]:
    """The data of a page, its program, and what else was found."""
    scripts = _Scripts()
    scripts.feed(text)
    data, program = scripts.texts
    return json.loads(data), program, scripts


def failing() -> Result:
    with SIMULATION.mutations["forgetful"].applied():
        for seed in range(1, 100):
            result = SIMULATION.run(seed, {"enabled": ["crash", "cut", "pause"], "loss": 0.1, "faults": 20}, trace=True)
            if result.failure:
                return result
    raise AssertionError("no seed fails")


def made(*events: Event, **options: object) -> Result:
    result = Result(1, {"schedule": None, **options})
    result.lanes = ["m1", "m2", "c1"]
    result.trace = list(events)
    return result


def in_node(folder: Path, program: str, data: dict[str, Any], expression: str) -> Any:
    """What ``expression`` is, with the page's functions as ``page`` and its data as ``data``."""
    assert NODE is not None
    (folder / "page.js").write_text(program, encoding="utf-8")
    (folder / "data.json").write_text(json.dumps(data), encoding="utf-8")
    script = (
        "const page = require('./page.js'), data = require('./data.json'), {events, kinds, lanes} = data;"
        f"process.stdout.write(JSON.stringify({expression}));"
    )
    done = subprocess.run([NODE, "-e", script], cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_page_holds_every_event_and_every_fault_in_order() -> None:
    result = failing()
    assert result.trace is not None
    data, _, _ = parsed(page(result))
    shown = [(time, data["kinds"][kind], text) for time, kind, _, _, text, _ in data["events"]]
    given = [(event.time, event.kind, event.text) for event in (*result.trace, *strikes(result.options))]
    assert sorted(shown) == sorted(given)
    assert [time for time, _, _ in shown] == sorted(time for time, _, _ in shown)
    assert data["failure"] == result.failure
    assert data["options"] == json.loads(json.dumps(dict(result.options)))
    assert data["lanes"] == list(result.lanes)


def test_the_page_needs_no_network() -> None:
    text = page(failing())
    _, program, scripts = parsed(text)
    assert scripts.loads == []
    assert not re.search(r"https?:|//\w|@import|url\(|fetch\(|XMLHttpRequest|import\(", text.replace("// ", ""))
    assert "innerHTML" not in program
    assert "document.write" not in program


def test_no_text_of_a_run_ends_the_script_it_stands_in() -> None:
    nasty = "</script><script>alert(1)</script><!-- &lt; \u2028 \ud800 \x00 TITLE DATA"
    result = made(Event(5, kinds.FAULT, "m1", "", nasty, 0))
    result.failure = nasty
    text = page(result)
    data, _, scripts = parsed(text)
    assert data["events"][0][4] == nasty
    assert data["failure"] == nasty
    assert scripts.tags.count("script") == 2
    text.encode("utf-8")


def test_a_schedule_becomes_events_of_the_whole_run() -> None:
    assert strikes({"schedule": [[7, "partition", [1], [2, 3], 14], [9, "wipe", 2]]}) == [
        Event(7, kinds.FAULT, "", "", "partition [1] [2, 3] 14", 0),
        Event(9, kinds.FAULT, "", "", "wipe 2", 0),
    ]
    assert strikes({"schedule": None}) == []


def test_an_empty_run_can_be_drawn() -> None:
    data, _, _ = parsed(page(made()))
    assert data["events"] == []


@needs_node
def test_positions_keep_the_order_and_cut_quiet_stretches(tmp_path: Path) -> None:
    times = [0, 0, 1000, 1_000_000, 1_000_000, 60_000_000_000]
    data, program, _ = parsed(page(made(*[Event(time, kinds.ROLE, "m1", "", "LOOKING", 0) for time in times])))
    ys = in_node(tmp_path, program, data, "page.positions(events)")
    assert ys == sorted(ys)
    assert ys[0] == ys[1]
    assert ys[3] == ys[4]
    assert 0 < ys[2] - ys[1] < ys[3] - ys[2] < ys[5] - ys[4] < 100


@needs_node
def test_messages_are_paired_by_their_links_and_lost_ones_have_no_end(tmp_path: Path) -> None:
    result = made(
        Event(1, kinds.SEND, "m1", "m2", "a", 1),
        Event(2, kinds.SEND, "m1", "m2", "b", 2),
        Event(3, kinds.SEND, "m2", "m1", "c", 3),
        Event(4, kinds.DELIVER, "m2", "m1", "", 2),
        Event(5, kinds.DELIVER, "m2", "m1", "", 1),
        Event(6, kinds.DELIVER, "m2", "m1", "", 99),
    )
    data, program, _ = parsed(page(result))
    assert in_node(tmp_path, program, data, "page.messages(events, kinds)") == [[0, 4], [1, 3], [2, -1]]


@needs_node
def test_lanes_show_roles_pauses_and_the_time_that_a_member_is_down(tmp_path: Path) -> None:
    result = made(
        Event(1, kinds.START, "m1", "", "", 0),
        Event(2, kinds.ROLE, "m1", "", "LOOKING epoch 0 leader -1", 0),
        Event(3, kinds.PAUSE, "m1", "", "2 ms", 0),
        Event(4, kinds.RESUME, "m1", "", "", 0),
        Event(5, kinds.ROLE, "m1", "", "LEADING epoch 1 leader 1, serving", 0),
        Event(6, kinds.CRASH, "m1", "", "killed", 0),
        Event(7, kinds.RESUME, "m1", "", "", 0),
    )
    data, program, _ = parsed(page(result))
    found = in_node(tmp_path, program, data, "page.stretches(events, kinds, lanes)")
    assert [each for each in found if each[0] == 0] == [
        [0, 0, 0, "down"],
        [0, 0, 1, "up"],
        [0, 1, 2, "LOOKING"],
        [0, 2, 3, "paused"],
        [0, 3, 4, "LOOKING"],
        [0, 4, 5, "LEADING serving"],
        [0, 5, -1, "down"],
    ]
    assert [each for each in found if each[0] == 2] == [[2, 0, -1, "CLIENT"]]


@needs_node
def test_cuts_last_until_they_end_and_may_overlap(tmp_path: Path) -> None:
    result = made(
        Event(1, kinds.FAULT, "m1", "m2", "cut for 5.0 ms", 0),
        Event(2, kinds.FAULT, "m2", "m1", "cut for 9.0 ms", 0),
        Event(3, kinds.FAULT, "m1", "m2", "cut for 7.0 ms", 0),
        Event(4, kinds.FAULT, "m1", "", "bit flipped", 0),
        Event(6, kinds.FAULT, "m1", "m2", "cut ends", 0),
        Event(10, kinds.FAULT, "m1", "m2", "cut ends", 0),
    )
    data, program, _ = parsed(page(result))
    assert in_node(tmp_path, program, data, "page.cuts(events, kinds)") == [[0, 1, 0, 4], [1, 0, 1, -1], [0, 1, 2, 5]]


@needs_node
def test_every_event_has_a_filter(tmp_path: Path) -> None:
    result = made(
        Event(1, kinds.SEND, "m1", "m2", "Notification LOOKING round 1", 1),
        Event(1, kinds.SEND, "m1", "m2", "PING", 2),
        Event(1, kinds.SEND, "m1", "m2", "PROPOSAL 0x1", 3),
        Event(1, kinds.SEND, "c1", "m2", "create /a", 4),
        Event(1, kinds.DELIVER, "c1", "m2", "reply", 5),
        Event(1, kinds.CLOSE, "m1", "m2", "", 0),
        Event(1, kinds.CONNECT, "m1", "m2", "", 0),
        *[Event(1, kind, "m1", "", "", 0) for kind in (kinds.START, kinds.CRASH, kinds.PAUSE, kinds.RESUME)],
        *[Event(1, kind, "m1", "", "", 0) for kind in (kinds.ROLE, kinds.COMMIT, kinds.WRITE, kinds.FAULT)],
        Event(1, kinds.CLIENT, "c1", "", "", 0),
        Event(1, kinds.PHASE, "", "", "", 0),
        Event(1, kinds.FAILURE, "", "", "", 0),
    )
    data, program, _ = parsed(page(result))
    assert in_node(tmp_path, program, data, "events.map(event => page.group(event, kinds, lanes))") == [
        *["election messages", "pings", "other messages", "client messages", "client messages"],
        *["connections"] * 2,
        *["crashes and pauses"] * 4,
        *["roles", "commits", "disk writes", "faults", "client operations", "phases", "phases"],
    ]


def dumped(folder: Path, text: str) -> str:
    """The page's elements after its script has run."""
    assert CHROMIUM is not None
    file = folder / "page.html"
    file.write_text(text, encoding="utf-8")
    done = subprocess.run(
        [
            CHROMIUM,
            *["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"],
            *["--window-size=1200,800", "--dump-dom", file.as_uri()],
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@needs_chromium
def test_a_browser_opens_it_at_the_failure(tmp_path: Path) -> None:
    result = failing()
    text = page(result)
    # where it was scrolled to is no element: the test asks for it
    probe = (
        "<script>document.body.dataset.bottom = view.scrollTop + view.clientHeight - view.scrollHeight;</script></body>"
    )
    shown = dumped(tmp_path, text.replace("</body>", probe))
    assert f'<p id="failure">{result.failure}</p>' in shown
    assert "<dt>kind</dt><dd>failure</dd>" in shown
    assert f"<dt>what</dt><dd>{result.failure}</dd>" in shown
    bottom = re.search(r'data-bottom="(-?[\d.]+)"', shown)
    assert bottom is not None
    assert abs(float(bottom[1])) < 2
    for name in ("roles", "commits", "faults", "crashes and pauses", "client operations", "client messages"):
        assert f'<label><input type="checkbox"> {name}</label>' in shown
    assert "pings" not in shown.partition("</header>")[0]


@needs_chromium
def test_a_browser_takes_twenty_thousand_events(tmp_path: Path) -> None:
    events = [
        Event(
            number * 10_000,
            kinds.SEND if number % 2 else kinds.DELIVER,
            "m1",
            "m2",
            f"PROPOSAL {number}",
            number // 2 + 1,
        )
        for number in range(1, 20_001)
    ]
    shown = dumped(tmp_path, page(made(*events)))
    assert "other messages</label>" in shown


def test_a_trace_file_has_the_run_and_then_its_events() -> None:
    result = failing()
    assert result.trace is not None
    head, *events = [json.loads(line) for line in lines(result)]
    assert head["seed"] == result.seed
    assert head["failure"] == result.failure
    assert head["digest"] == f"{result.digest:08x}"
    assert head["lanes"] == list(result.lanes)
    assert head["options"] == json.loads(json.dumps(dict(result.options)))
    assert [Event(*event) for event in events] == list(result.trace)
