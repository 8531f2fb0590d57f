"""zoo.cfg as Apache ZooKeeper 3.8 reads it (QuorumPeerConfig.java, java.util.Properties)."""

import os
import re
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from quorate.errors import ConfigError
from quorate.zookeeper import properties, zoocfg
from quorate.zookeeper.apache_keys import REFUSE, UNDONE, UNDONE_PREFIXES
from quorate.zookeeper.config import FOUR_LETTER_WORDS, Address, MemberConfig, PeerType, ServerSpec

THREE = """
server.1=a:2888:3888
server.2=b:2888:3888:participant
server.3=c:2888:3888
initLimit=10
syncLimit=5
"""


def read(text: str, myid: str | None = None, **files: str) -> MemberConfig:
    """Parse ``text`` after a dataDir and a clientPort; ``files`` maps file names (``_`` for ``.``) to their content."""
    contents = {name.replace("_", "."): content.encode() for name, content in files.items()}
    if myid is not None:
        contents["/data/myid"] = myid.encode()
    return zoocfg.parse(
        b"dataDir=/data\nclientPort=2181\n" + text.encode(), "zoo.cfg", contents.__getitem__, contents.__contains__
    )


def refusal(text: str, myid: str | None = None, **files: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read(text, myid, **files)
    return str(caught.value)


def warned(text: str, myid: str | None = None) -> list[str]:
    return [str(warning) for warning in read(text, myid).warnings]


def pairs(text: str) -> list[tuple[str, str]]:
    return [(key, value) for key, value, _ in properties.parse(text, "f")]


# The syntax


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a=b", [("a", "b")]),
        ("a:b", [("a", "b")]),
        ("a b", [("a", "b")]),
        ("a\t\f b", [("a", "b")]),
        ("  a  =  b  ", [("a", "b")]),
        ("a = = b", [("a", "= b")]),
        ("a : = b", [("a", "= b")]),
        ("a", [("a", "")]),
        ("a=", [("a", "")]),
        ("# a=b\n ! c=d\n\n\t\ne=f", [("e", "f")]),
        ("a=b # no comment", [("a", "b # no comment")]),
        ("a=b\\\n   c", [("a", "bc")]),
        ("a=b\\\\\nc=d", [("a", "b\\"), ("c", "d")]),
        ("a=b\\\n# still the value", [("a", "b# still the value")]),
        ("a=b\\", [("a", "b")]),
        ("a\\=b=c", [("a=b", "c")]),
        ("a\\:b\\ c d", [("a:b c", "d")]),
        ("a=\\u0041\\t\\x", [("a", "A\tx")]),
        ("a=\\ud83d\\ude00", [("a", "\U0001f600")]),
        ("a=1\r\nb=2\rc=3", [("a", "1"), ("b", "2"), ("c", "3")]),
        ("server.1=[::1]:2888:3888", [("server.1", "[::1]:2888:3888")]),
    ],
)
def test_properties_syntax(text: str, expected: list[tuple[str, str]]) -> None:
    assert pairs(text) == expected


def test_lines_are_counted_over_comments_and_continuations() -> None:
    found = properties.parse("# one\n\na=1\\\n  2\n\nb=3", "f")
    assert [(key, line) for key, _, line in found] == [("a", 3), ("b", 6)]


@pytest.mark.parametrize("text", ["a=\\u12", "a=\\u12g4", "a=\\u"])
def test_malformed_unicode_escape_is_an_error(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^f:1: \\u is followed by"):
        properties.parse(text, "f")


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
@example("C:\\new folder\\")
@example("ключ \U0001f600")
def test_escaped_values_are_read_back(value: str) -> None:
    assert properties.parse("key=x" + properties.escape(value) + "x", "f")[0].value == f"x{value}x"


def outcome(data: bytes) -> str:
    try:
        return zoocfg.parse(data, "zoo.cfg", lambda path: b"1", lambda path: True).file
    except ConfigError as error:
        return str(error)


@given(st.binary(max_size=300))
@example(b"dataDir=/d\nserver.1=[")
def test_any_bytes_are_read_or_refused_with_a_reason(data: bytes) -> None:
    assert outcome(data).startswith("zoo.cfg")


def test_utf8_and_latin1_files() -> None:
    assert properties.decode("é".encode(), "f") == "é"
    assert properties.decode("é".encode("latin-1"), "f") == "é"


def test_what_is_no_configuration() -> None:
    with pytest.raises(ConfigError, match="binary data"):
        properties.decode(b"\x7fELF\0", "f")
    with pytest.raises(ConfigError, match="larger than"):
        properties.decode(b"#" * (properties.MAX_FILE_BYTES + 1), "f")


# Defaults and values


def test_defaults_of_apache() -> None:
    config = read("")
    assert config.standalone
    assert config.tick_time == 3000
    assert (config.min_session_timeout, config.max_session_timeout) == (6000, 60000)
    assert config.data_log_dir == "/data"
    assert config.client_address == Address("0.0.0.0", 2181)
    assert config.max_client_connections == 60
    assert config.max_buffer == 1048575
    assert (config.snap_count, config.snap_size_limit, config.preallocate) == (100_000, 4 << 30, 64 << 20)
    assert (config.purge_snapshots_kept, config.purge_interval) == (3, 0)
    assert config.four_letter_words == {"srvr"}
    assert (config.admin_enabled, config.admin_address, config.admin_command_url) == (
        True,
        Address("0.0.0.0", 8080),
        "/commands",
    )
    assert config.force_sync
    assert config.leader_serves
    assert config.digest_enabled
    assert not config.skip_acl
    assert not config.extended_types_enabled
    assert not config.enforce_quota
    assert config.metrics_address is None
    assert config.warnings == []


def test_values_and_units() -> None:
    config = read(
        """
tickTime=500
dataLogDir=/log
clientPortAddress=127.0.0.1
maxClientCnxns=0
minSessionTimeout=1000
maxSessionTimeout=40000
snapCount=1000
snapSizeLimitInKb=-1
preAllocSize=100
autopurge.snapRetainCount=5
autopurge.purgeInterval=24
jute.maxbuffer=4194304
leaderServes=no
globalOutstandingLimit=10
extendedTypesEnabled=true
enforceQuota=true
skipACL=yes
digest.enabled=false
DigestAuthenticationProvider.superDigest=super:D/InIHSb7yEEbrWz8b9l71RjZJU=
commitLogCount=700
forceSync=no
znode.container.checkIntervalMs=100
fsync.warningthresholdms=20
clientPortListenBacklog=50
quorumListenOnAllIPs=true
admin.enableServer=true
admin.serverPort=9000
admin.serverAddress=127.0.0.1
admin.commandURL=/do/
admin.idleTimeout=5
metricsProvider.className=org.apache.zookeeper.metrics.prometheus.PrometheusMetricsProvider
metricsProvider.httpPort=7070
metricsProvider.httpHost=::1
connectToLearnerMasterLimit=4
electionAlg=3
"""
    )
    assert config.warnings == []
    assert config.data_log_dir == "/log"
    assert config.client_address == Address("127.0.0.1", 2181)
    assert (config.max_client_connections, config.client_port_listen_backlog) == (0, 50)
    assert (config.tick_time, config.min_session_timeout, config.max_session_timeout) == (500, 1000, 40000)
    assert (config.snap_count, config.preallocate) == (1000, 102400)
    assert config.snap_size_limit < 0
    assert (config.purge_snapshots_kept, config.purge_interval) == (5, 24 * 3600 * 1000)
    assert (config.max_buffer, config.global_outstanding_limit, config.commit_log_count) == (4194304, 10, 700)
    assert not config.leader_serves
    assert config.extended_types_enabled
    assert config.enforce_quota
    assert config.skip_acl
    assert not config.digest_enabled
    assert not config.force_sync
    assert config.super_digest == "super:D/InIHSb7yEEbrWz8b9l71RjZJU="
    assert (config.container_check_interval, config.fsync_warning_threshold) == (100, 20)
    assert config.quorum_listen_on_all_ips
    assert config.admin_address == Address("127.0.0.1", 9000)
    assert (config.admin_command_url, config.admin_idle_timeout) == ("/do", 5)
    assert config.metrics_address == Address("::1", 7070)
    assert config.connect_to_leader_limit_ticks == 4


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [("1", 3600000), ("90m", 5400000), ("5s", 5000), ("70ms", 70), ("2D", 172800000), ("-1", 0)],
)
def test_purge_interval(text: str, milliseconds: int) -> None:
    assert read(f"autopurge.purgeInterval={text}").purge_interval == milliseconds


def test_either_spelling_of_a_key() -> None:
    assert read("zookeeper.snapCount=7").snap_count == 7
    assert read("zookeeper.jute.maxbuffer=2000").max_buffer == 2000


def test_four_letter_words() -> None:
    assert read("4lw.commands.whitelist=*").four_letter_words == FOUR_LETTER_WORDS
    assert read("4lw.commands.whitelist=stat, ruok").four_letter_words == {"stat", "ruok", "srvr"}
    assert warned("4lw.commands.whitelist=stat, nope") == [
        "zoo.cfg:3: 4lw.commands.whitelist: 'nope' is not a four-letter command and is left out"
    ]


# The ensemble


def test_three_members() -> None:
    config = read(THREE, "2\n")
    assert not config.standalone
    assert config.my_id == 2
    assert config.myself == ServerSpec(2, Address("b", 2888), Address("b", 3888))
    assert [server.id for server in config.servers] == [1, 2, 3]
    assert (config.init_limit_ticks, config.sync_limit_ticks) == (10, 5)
    assert config.warnings == []
    assert config.ensemble_text(0x10).splitlines() == [
        "server.1=a:2888:3888:participant",
        "server.2=b:2888:3888:participant",
        "server.3=c:2888:3888:participant",
        "version=10",
    ]


def test_server_forms() -> None:
    config = read(
        THREE.replace("server.1=a:2888:3888", "server.1=[2001:db8::1]:2888:3888:participant;[::1]:2181")
        + "server.10=d:1:2:Observer;2182\n",
        "1",
    )
    assert config.servers[0] == ServerSpec(
        1,
        Address("2001:db8::1", 2888),
        Address("2001:db8::1", 3888),
        PeerType.PARTICIPANT,
        Address("::1", 2181),
    )
    assert config.client_address == Address("::1", 2181)
    assert config.servers[-1].peer_type is PeerType.OBSERVER
    assert config.servers[-1].client == Address("0.0.0.0", 2182)
    assert str(config.servers[-1]) == "d:1:2:observer;0.0.0.0:2182"
    assert str(config.servers[0]) == "[2001:db8::1]:2888:3888:participant;[::1]:2181"
    assert len(config.participants) == 3


def test_client_address_of_the_server_line() -> None:
    text = THREE.replace("server.1=a:2888:3888", "server.1=a:2888:3888;127.0.0.1:2181")
    assert read(text, "1").client_address == Address("127.0.0.1", 2181)
    assert read(text, "2").client_address == Address("0.0.0.0", 2181)
    assert "names the client address 127.0.0.1:2181, but clientPort names 10.0.0.1:2181" in refusal(
        text + "clientPortAddress=10.0.0.1", "1"
    )
    assert refusal(text + "clientPort=2182", "1").startswith("zoo.cfg:4: server.1 names the client address")


def test_one_server_or_none_is_standalone() -> None:
    assert read("").standalone
    assert read("").my_id == 1
    config = read("server.5=a:1:2;2181")
    assert config.standalone
    assert config.my_id == 5
    assert [str(warning) for warning in config.warnings] == [
        "zoo.cfg: only one server is listed, so this member serves alone"
    ]
    alone = read("standaloneEnabled=false\nserver.5=a:1:2\ninitLimit=1\nsyncLimit=1", "5")
    assert not alone.standalone


def test_role_of_the_server_line_counts() -> None:
    config = read(THREE + "server.4=d:1:2:observer\npeerType=participant", "4")
    assert config.peer_type is PeerType.OBSERVER
    assert "peerType is participant, but server.4 says observer" in str(config.warnings[-1])
    assert read(THREE + "server.4=d:1:2:observer\npeerType=observer", "4").warnings == []


def test_even_ensembles_are_warned_of() -> None:
    two = "server.1=a:1:2\nserver.2=a:1:2\ninitLimit=1\nsyncLimit=1"
    assert "two voting servers tolerate no failure" in warned(two, "1")[0]
    assert "4 voting servers tolerate no more failures than 3" in warned(THREE + "server.4=d:1:2", "1")[0]


def test_dynamic_file() -> None:
    dynamic = "server.1=a:1:2;2181\nserver.2=b:1:2;2181\nserver.3=c:1:2;2181\n"
    text = "dynamicConfigFile=zoo.cfg.dynamic.1f\ninitLimit=10\nsyncLimit=5"
    config = read(text, "3", zoo_cfg_dynamic_1f=dynamic)
    assert config.config_version == 0x1F
    assert len(config.servers) == 3
    assert config.ensemble_text().endswith("server.3=c:1:2:participant;0.0.0.0:2181\nversion=1f")
    assert refusal(text, "3", zoo_cfg_dynamic_1f=dynamic + "tickTime=1").startswith(
        "zoo.cfg.dynamic.1f:4: tickTime does not belong in a dynamic file"
    )
    assert "version does not belong" in refusal(text, "3", zoo_cfg_dynamic_1f=dynamic + "version=1")
    assert "a reconfiguration is not finished" in refusal(
        text, "3", zoo_cfg_dynamic_1f=dynamic, zoo_cfg_dynamic_next=dynamic
    )
    assert refusal(text + "\nserver.4=d:1:2", "3", zoo_cfg_dynamic_1f=dynamic).startswith(
        "zoo.cfg:6: server.4 must stand in the file that dynamicConfigFile names"
    )


# Mistakes


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("tickTime=0", "tickTime is '0', expected a whole number from 1"),
        ("tickTime=two", "tickTime is 'two', expected a whole number"),
        ("tickTime=2000 # ms", "a comment needs a line of its own"),
        ("tickTime=99999999999", "expected a whole number from 1 to 2147483647"),
        ("initLimit=-1", "initLimit is '-1'"),
        ("clientPort=65536", "'65536' is not a port"),
        ("clientPort=", "'' is not a port"),
        ("electionAlg=0", "electionAlg is 0, but 3 (fast leader election) is the only one there is"),
        ("peerType=witness", "'witness' is not a role"),
        ("standaloneEnabled=maybe", "expected true or false"),
        ("dataDir=", "dataDir is empty"),
        ("minSessionTimeout=0", "minSessionTimeout is 0"),
        (
            "minSessionTimeout=70000",
            "minSessionTimeout (70000 ms) must not be larger than maxSessionTimeout (60000 ms)",
        ),
        ("version=xyz", "expected a hexadecimal number"),
        ("admin.commandURL=commands", "expected a path"),
        ("DigestAuthenticationProvider.superDigest=secret", "must be super: and the digest"),
        ("metricsProvider.className=com.example.Mine", "com.example.Mine is not a metrics provider"),
        ("jute.maxbuffer=12", "expected a whole number from 1024"),
        ("server.x=a:1:2", "server.x: the server's number must be a whole number"),
        ("server.256=a:1:2", "server.256: the server's number"),
        ("server.1=a:1", "expected host:quorumPort:electionPort"),
        ("server.1=:1:2", "expected host:quorumPort:electionPort"),
        ("server.1=a:1:2:voter", "'voter' is not a role"),
        ("server.1=a:1:1", "the quorum port and the election port must differ, both are 1"),
        ("server.1=[::1:2:3", "the bracket '[' is not closed"),
        ("server.1=[::1]2:3", "expected ':' after ']'"),
        ("server.1=a:1:2;b:c:3", "expected host:quorumPort:electionPort"),
        ("server.1=a:1:2;;2281", "TLS is not supported yet"),
        ("server.1=a:1:2|b:1:2", "several addresses for one server are refused"),
        ("=5", "a key is missing"),
    ],
)
def test_mistakes_name_file_and_line(line: str, message: str) -> None:
    text = refusal(line)
    assert text.startswith("zoo.cfg:3: ")
    assert message in text


def test_a_key_that_nobody_knows_gets_a_suggestion() -> None:
    assert refusal("ticktime=5") == "zoo.cfg:3: ticktime is not a setting of ZooKeeper; did you mean tickTime?"
    assert refusal("autopurge.purgeIntervall=5").endswith("did you mean autopurge.purgeInterval?")
    assert refusal("xyzzy=5") == "zoo.cfg:3: xyzzy is not a setting of ZooKeeper"


def test_what_an_ensemble_needs() -> None:
    assert refusal(THREE).startswith("/data/myid: the file is missing")
    assert refusal(THREE, "x").startswith("/data/myid:1: 'x' is not a server's number")
    assert refusal(THREE, "").startswith("/data/myid:1: '' is not a server's number")
    assert refusal(THREE, "9") == "/data/myid:1: server.9 is not in zoo.cfg, which lists 1, 2, 3"
    assert refusal(THREE.replace("initLimit=10", ""), "1") == "zoo.cfg: initLimit is not set, which an ensemble needs"
    assert "syncLimit is not set" in refusal(THREE.replace("syncLimit=5", ""), "1")
    assert "observers, which need a participant" in refusal("server.1=a:1:2:observer")
    assert "need more than one participant" in refusal("server.1=a:1:2\nserver.2=a:1:2:observer")
    assert "must be a server.N that votes" in refusal("standaloneEnabled=false")
    assert "must be below 255" in refusal(THREE + "server.255=a:1:2\nextendedTypesEnabled=true", "255")


def test_data_dir_and_client_port() -> None:
    with pytest.raises(ConfigError, match=r"^f: dataDir is not set"):
        zoocfg.parse(b"clientPort=1", "f", lambda path: b"", lambda path: False)
    with pytest.raises(ConfigError, match=r"^f:2: clientPortAddress is set but clientPort is not"):
        zoocfg.parse(b"dataDir=/d\nclientPortAddress=::1", "f", lambda path: b"", lambda path: False)
    config = zoocfg.parse(b"dataDir=d", "f", lambda path: b"", lambda path: False)
    assert config.client_address is None
    assert [str(warning) for warning in config.warnings] == [
        "f:1: dataDir is relative, so it depends on where the member is started",
        "f: clientPort is not set, so no client can connect",
    ]


# What Apache does and we do not


def test_harmless_things_that_we_do_not_do_are_warned_of_by_name() -> None:
    assert warned("reconfigEnabled=true\nnio.numWorkerThreads=4") == [
        "zoo.cfg:3: reconfigEnabled has no effect: reconfig is refused; the member list of this file holds",
        "zoo.cfg:4: nio.numWorkerThreads has no effect: one event loop serves all connections",
    ]
    assert warned("reconfigEnabled=false\nsslQuorum=false\nquorum.auth.enableSasl=FALSE") == []
    assert warned("metricsProvider.exportJvmInfo=true") == [
        "zoo.cfg:3: metricsProvider.exportJvmInfo has no effect: metrics are served over HTTP, at httpHost and httpPort"
    ]


def test_a_repeated_key_is_warned_of_and_the_last_counts() -> None:
    config = read("tickTime=1\ntickTime=2")
    assert config.tick_time == 2
    assert str(config.warnings[0]) == "zoo.cfg:4: tickTime was already set in line 3; this line counts"


def test_values_that_apache_takes_for_something_else() -> None:
    assert read("forceSync=false").force_sync
    assert "which Apache takes as yes" in warned("forceSync=false")[0]
    assert not read("enforceQuota=yes").enforce_quota
    assert "which Apache takes as false" in warned("enforceQuota=yes")[0]
    assert read("autopurge.snapRetainCount=1").purge_snapshots_kept == 3
    assert read("commitLogCount=10").commit_log_count == 500
    assert len(warned("commitLogCount=10\nautopurge.snapRetainCount=1\nsnapCount=1")) == 3


@pytest.mark.parametrize(
    "line",
    [
        "secureClientPort=2281",
        "sslQuorum=true",
        "ssl.keyStore.location=/k",
        "ssl.quorum.trustStore.location=/k",
        "zookeeper.ssl.keyStore.location=/k",
        "authProvider.1=org.apache.zookeeper.server.auth.SASLAuthenticationProvider",
        "quorum.auth.enableSasl=true",
        "quorum.auth.learnerRequireSasl=true",
        "sessionRequireClientSASLAuth=true",
        "enforce.auth.enabled=true",
        "enforce.auth.schemes=sasl",
        "DigestAuthenticationProvider.enabled=false",
        "DigestAuthenticationProvider.digestAlg=SHA3-256",
        "metricsProvider.ssl.keyStore.location=/k",
        "group.1=1:2:3",
        "weight.1=2",
        "oraclePath=/o",
        "db.autocreate=false",
        "portUnification=true",
    ],
)
def test_what_would_be_unsafe_to_leave_out_is_refused(line: str) -> None:
    assert refusal(line).startswith(f"zoo.cfg:3: {line.partition('=')[0].removeprefix('zookeeper.')} is refused: ")


def test_every_undone_key_is_warned_of_or_refused_unless_it_asks_for_nothing() -> None:
    for key, instead in [*UNDONE.items(), *((prefix + "x", family) for prefix, family in UNDONE_PREFIXES.items())]:
        if instead.action == REFUSE:
            assert refusal(f"{key}=on").startswith(f"zoo.cfg:3: {key} is refused: ")
        else:
            assert warned(f"{key}=on")[0].startswith(f"zoo.cfg:3: {key} has no effect: ")
        for value in instead.harmless:
            assert read(f"{key}={value}").warnings == []


def test_done_and_undone_do_not_overlap() -> None:
    assert set(zoocfg._DONE).isdisjoint(UNDONE)


# Real files


def test_load_reads_the_files(tmp_path: Path) -> None:
    data = tmp_path / "dätä"
    data.mkdir()
    (data / "myid").write_text("2\n")
    path = tmp_path / "zoo.cfg"
    path.write_text(f"dataDir={properties.escape(str(data))}\nclientPort=2181\n{THREE}")
    config = zoocfg.load(str(path))
    assert config.my_id == 2
    assert config.data_dir == str(data)
    with pytest.raises(ConfigError, match=r"the file cannot be read \(No such file or directory\)"):
        zoocfg.load(str(tmp_path / "absent"))
    with pytest.raises(ConfigError, match=r"the file cannot be read \(Is a directory\)"):
        zoocfg.load(os.fspath(tmp_path))


def test_the_sample_of_apache(tmp_path: Path) -> None:
    """The settings of Apache's and Debian's own sample files."""
    config = read("tickTime=2000\ninitLimit=10\nsyncLimit=5\nautopurge.snapRetainCount=3\nautopurge.purgeInterval=1\n")
    assert config.standalone
    assert config.warnings == []


# What users are told


def test_every_field_is_used_by_the_server() -> None:
    """A key that is called done and that nobody reads would be ignored without a word."""
    root = Path(zoocfg.__file__).parents[1]
    own = {"config.py", "zoocfg.py", "view.py"}
    text = "\n".join(path.read_text(encoding="utf-8") for path in root.rglob("*.py") if path.name not in own)
    # the first is read by MemberConfig.standalone
    unread = {field.name for field in fields(MemberConfig)} - {"standalone_enabled"}
    assert sorted(name for name in unread if not re.search(rf"(config|_file)\.{name}\b", text)) == []


def test_operations_names_every_key() -> None:
    text = (Path(__file__).parents[3] / "docs" / "operations.md").read_text(encoding="utf-8")
    named = [*zoocfg._DONE, *UNDONE, *(prefix + "…" for prefix in UNDONE_PREFIXES)]
    assert [key for key in named if f"`{key}`" not in text] == []
    assert [instead.instead for instead in UNDONE.values() if instead.instead not in text] == []
