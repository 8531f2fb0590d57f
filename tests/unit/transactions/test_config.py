"""The file that tells of participants and decisions: what it makes, and every mistake told with the file and the key."""

from pathlib import Path

import pytest

from quorate import transactions
from quorate.errors import ConfigError, UsageError
from quorate.transactions import config
from quorate.transactions.sync import Coordinator

GOOD = """
[transactions]
space = "shop"
decisions = "./decisions"

[[participants]]
name = "orders"
kind = "postgres"
conninfo = "host=db1 port=5433 dbname=shop user=app"

[[participants]]
name = "stock"
kind = "mariadb"
host = "db2"
database = "warehouse"
user = "app"
password_file = "stock.password"
ignore_tables = ["counters"]

[[participants]]
name = "inventory"
kind = "kv"
addresses = "10.0.1.1:7002,10.0.1.2:7002"
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "transactions.toml"
    path.write_text(text)
    (folder / "stock.password").write_text("geheim\n")
    return path


def test_what_a_file_says(tmp_path: Path) -> None:
    found = config.load(written(tmp_path, GOOD))
    assert (found.space, found.decisions) == ("shop", tmp_path / "decisions")
    assert (found.timeout, found.acknowledge, found.sweep_every, found.keep) == (5.0, "applied", 10.0, 60.0)
    orders, stock, inventory = found.participants()
    assert isinstance(orders, transactions.Postgres)
    assert (orders.name, orders.where) == ("orders", ("db1", 5433, "shop"))
    assert isinstance(stock, transactions.MariaDB)
    assert (stock.name, stock.where) == ("stock", ("db2", 3306, "warehouse"))
    assert stock.parameters["password"] == "geheim"
    assert stock.parameters["user"] == "app"
    assert isinstance(inventory, transactions.Kv)
    assert inventory.name == "inventory"
    assert found.participants()[0] is not orders
    assert orders._options == {}
    pooled = GOOD.replace('user=app"', 'user=app"\nprepare_statements = false', 1)
    (orders, *_) = config.load(written(tmp_path, pooled)).participants()
    assert orders._options == {"prepare_threshold": None}


def test_a_coordinator_is_made_of_it(tmp_path: Path) -> None:
    text = GOOD.replace("[[participants]]", 'timeout = 2\nacknowledge = "decided"\nkeep = 5.5\n[[participants]]', 1)
    with Coordinator.from_file(written(tmp_path, text), sweep_every=None, keep=7.0) as coordinator:
        engine = coordinator.engine
        assert (engine.space, engine.timeout, engine.early, engine.keep) == ("shop", 2.0, True, 7.0)
        assert engine.sweep_every is None
        assert list(engine.participants) == ["orders", "stock", "inventory"]
    assert (tmp_path / "decisions").exists()


@pytest.mark.parametrize(
    "decisions", ["10.0.0.1:7002", "a:1,b:2,[::1]:3", "zookeeper://a:2181,b:2181", "zookeeper://a:2181/chroot"]
)
def test_where_decisions_may_lie(decisions: str, tmp_path: Path) -> None:
    assert config.load(written(tmp_path, GOOD.replace("./decisions", decisions))).decisions == decisions


def test_paths_are_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, GOOD.replace("./decisions", "../shop/decisions"))
    monkeypatch.chdir(tmp_path)
    found = config.load("transactions.toml")
    assert isinstance(found.decisions, Path)
    assert found.decisions.resolve() == tmp_path.parent / "shop" / "decisions"
    assert found.participants()[1].parameters["password"] == "geheim"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('space = "shop"', "", "transactions.space is missing, expected a text"),
        ('space = "shop"', 'space = "Shop!"', "transactions.space: 'Shop!' is no name of a space"),
        ('decisions = "./decisions"', "", "transactions.decisions is missing"),
        ('"./decisions"', '"db1"', 'transactions.decisions: expected "host:port"'),
        ('"./decisions"', '"db1:70000"', "which begins with / or ./, found 'db1:70000'"),
        ('space = "shop"', 'space = "shop"\nsweep = 3', "transactions.sweep is not known; the keys here are: acknowledge, decisions"),
        ('space = "shop"', 'space = "shop"\ntimeout = "5s"', "transactions.timeout: expected a number of seconds from 0.001 to 86400, found '5s'"),
        ('space = "shop"', 'space = "shop"\ntimeout = true', "transactions.timeout: expected a number of seconds"),
        ('space = "shop"', 'space = "shop"\nacknowledge = "soon"', "transactions.acknowledge: expected one of applied, decided, found 'soon'"),
        ('name = "stock"', 'name = "orders"', "participants[1].name: there are two participants named 'orders'"),
        ('name = "stock"', 'name = "Stock"', "participants[1].name: 'Stock' is no name of a participant"),
        ('kind = "mariadb"', 'kind = "oracle"', "participants[1].kind: expected one of postgres, mariadb, kv"),
        ('kind = "mariadb"', "", "participants[1].kind is missing, expected one of postgres, mariadb, kv"),
        ('conninfo = "host=db1', 'connifo = "host=db1', "participants[0].conninfo is missing, expected a text"),
        ('dbname=shop user=app"', 'dbname=shop"\nprepare_statements = "no"', "participants[0].prepare_statements: expected true or false, found 'no'"),
        ('host = "db2"', 'hots = "db2"', "participants[1].hots is not known"),
        ('host = "db2"', "port = 0", "participants[1].port: expected a number from 1 to 65535, found 0"),
        ('"stock.password"', '"nowhere"', "participants[1].password_file: "),
        ('user = "app"\npassword', 'user = "app"\npassword = "x"\npassword', "participants[1].password: a password_file is given too"),
        ('"10.0.1.1:7002,10.0.1.2:7002"', '"10.0.1.1"', "participants[2].addresses: expected \"host:port\" or several of them"),
    ],
)  # fmt: skip
def test_mistakes(old: str, new: str, message: str, tmp_path: Path) -> None:
    assert old in GOOD
    path = written(tmp_path, GOOD.replace(old, new, 1))
    with pytest.raises(ConfigError) as raised:
        config.load(path)
    assert str(raised.value).startswith(f"{path}: ")
    assert message in str(raised.value)


def test_a_wrong_conninfo_names_the_participant(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD.replace("host=db1", "hosst=db1"))
    with pytest.raises(ConfigError, match="orders: ") as raised:
        config.load(path).participants()
    assert str(raised.value).startswith(f"{path}: ")


def test_autocommit_is_not_the_users_choice() -> None:
    with pytest.raises(UsageError, match="orders: autocommit is the coordinator's"):
        transactions.Postgres("orders", "host=db1", autocommit=False)


def test_no_file_and_no_toml(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: no such file or directory"):
        config.load(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="is no TOML"):
        config.load(written(tmp_path, "space = \n"))
    with pytest.raises(ConfigError, match="participants is missing, expected tables"):
        config.load(written(tmp_path, GOOD[: GOOD.index("[[")]))
