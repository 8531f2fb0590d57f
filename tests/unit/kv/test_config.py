"""A node's file: what it says, and every mistake told with the file and the key."""

from pathlib import Path

import pytest

from quorate.errors import ConfigError
from quorate.kv.config import load

GOOD = """
[node]
id = 2
data_dir = "data"

[kv]
shards = ["", "m"]

[[kv.members]]
id = 1
peer = "10.0.0.1:7001"
client = "10.0.0.1:7002"
http = "10.0.0.1:8500"

[[kv.members]]
id = 2
peer = "10.0.0.2:7001"
client = "10.0.0.2:7002"
http = "10.0.0.2:8500"
"""


def test_what_a_file_says(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_text(GOOD)
    config = load(str(path))
    assert (config.sid, config.data_dir, config.shards) == (2, str(tmp_path / "data"), (b"", b"m"))
    assert config.address("client") == ("10.0.0.2", 7002)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("id = 2\ndata", "id = 3\ndata", "node.id: 3 is none of kv.members"),
        ("id = 2\ndata", "ids = 2\ndata", "node.id is missing"),
        ("id = 2\npeer", "id = 1\npeer", "two members have one id"),
        ('["", "m"]', '["m", ""]', "kv.shards: expected 1 to"),
        ('["", "m"]', '["a"]', "kv.shards: expected 1 to"),
        ('["", "m"]', '["", "quorate/txn/shop"]', "kv.shards: 'quorate/txn/shop' would part the decisions of transactions"),
        ("[kv]", "[kv]\nhistroy = 3", "kv.histroy is not known; the keys here are"),
        ("[kv]", "[kv]\nelection_timeout_ms = 100", "is too short for a heartbeat every 50 ms"),
        ('"10.0.0.2:8500"', '"10.0.0.2"', 'kv.members[1].http: expected "host:port"'),
        ("[node]", "[node", "is no TOML"),
    ],
)  # fmt: skip
def test_mistakes(old: str, new: str, message: str, tmp_path: Path) -> None:
    assert old in GOOD
    path = tmp_path / "node.toml"
    path.write_text(GOOD.replace(old, new, 1))
    with pytest.raises(ConfigError) as raised:
        load(str(path))
    assert str(raised.value).startswith(f"{path}: ")
    assert message in str(raised.value)


def test_decisions_may_have_a_shard_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_text(GOOD.replace('["", "m"]', '["", "quorate/txn/", "quorate/txn0"]'))
    assert load(str(path)).shards == (b"", b"quorate/txn/", b"quorate/txn0")
