"""Access lists: what Apache 3.8.0 answered to the same lists, and who may do what."""

import pytest

from quorate.zookeeper.acl import OPEN_ACL, READ_ACL, Acl, AclEntry, Id
from quorate.zookeeper.auth import SUPER, authenticate, digest_id, fix_acl, ip_identity, mask_acl, permitted, user_name
from quorate.zookeeper.constants import ADMIN, ALL, CREATE, DELETE, READ, WRITE, Code
from quorate.zookeeper.request import RequestError
from quorate.zookeeper.settings import Settings

LOCAL = Id("ip", "127.0.0.1")
ALICE = Id("digest", digest_id("alice:secret"))


def acl(*entries: tuple[int, str, str]) -> Acl:
    return tuple(AclEntry(*entry) for entry in entries)


def refused(given: Acl, identities: tuple[Id, ...] = (LOCAL,)) -> int:
    with pytest.raises(RequestError) as caught:
        fix_acl(given, identities)
    return caught.value.code


def test_the_digest_is_apaches() -> None:
    # seen in getACL of Apache 3.8.0 after addauth digest u:p
    assert digest_id("u:p") == "u:Jq7wMyA/w2Vd5WIDAKdu4OIIFEQ="


def test_world_and_open() -> None:
    assert permitted(OPEN_ACL, ADMIN, ())
    assert permitted((), ADMIN, ())
    assert permitted(READ_ACL, READ, ())
    assert not permitted(READ_ACL, WRITE, (LOCAL, ALICE))
    assert permitted(READ_ACL, READ | ADMIN, ()), "any of the bits is enough"
    assert not permitted(acl((0, "world", "anyone")), READ, ())
    assert not permitted(acl((ALL, "world", "everyone")), READ, ())


def test_digest_needs_the_very_identity() -> None:
    mine = acl((READ | WRITE, "digest", ALICE.id))
    assert permitted(mine, WRITE, (LOCAL, ALICE))
    assert not permitted(mine, WRITE, (LOCAL,))
    assert not permitted(mine, WRITE, (Id("digest", digest_id("alice:guess")),))
    assert not permitted(mine, WRITE, (Id("ip", ALICE.id),))
    assert not permitted(mine, DELETE, (ALICE,))


def test_super_may_everything() -> None:
    assert permitted(acl((READ, "digest", ALICE.id)), ADMIN, (LOCAL, SUPER))


@pytest.mark.parametrize(
    ("expression", "address", "matches"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "127.0.0.2", False),
        ("10.0.0.0/8", "10.255.3.4", True),
        ("10.0.0.0/8", "11.0.0.1", False),
        ("10.1.2.77/24", "10.1.2.3", True),
        ("10.1.2.128/25", "10.1.2.3", False),
        ("0.0.0.0/0", "9.9.9.9", True),
        ("0.0.0.0/0", "::1", False),
        ("::1", "0:0:0:0:0:0:0:1", True),
        ("fe80::/10", "fe80:0:0:0:1:2:3:4", True),
        ("fe80::/10", "10.0.0.1", False),
        ("10.0.0.0/33", "10.0.0.0", False),
        ("nonsense", "10.0.0.0", False),
        ("10.0.0.1", "nonsense", False),
        ("10.0.0.1/" + "0" * 100, "10.0.0.1", False),
    ],
)
def test_address_ranges(expression: str, address: str, matches: bool) -> None:
    assert permitted(acl((CREATE, "ip", expression)), CREATE, (Id("ip", address),)) is matches


def test_a_list_is_stored_without_repetition_in_order() -> None:
    given = acl((31, "world", "anyone"), (31, "world", "anyone"), (1, "world", "anyone"))
    assert fix_acl(given, ()) == acl((31, "world", "anyone"), (1, "world", "anyone"))
    assert fix_acl(acl((31, "world", "anyone"), (31, "world", "anyone")), ()) is OPEN_ACL
    assert fix_acl(OPEN_ACL, ()) is OPEN_ACL


def test_auth_becomes_the_callers_identities() -> None:
    given = acl((31, "auth", ""), (1, "auth", "whatever"), (2, "world", "anyone"))
    bob = Id("digest", digest_id("bob:b"))
    assert fix_acl(given, (LOCAL, ALICE, bob, SUPER)) == acl(
        (31, *ALICE), (31, *bob), (1, *ALICE), (1, *bob), (2, "world", "anyone")
    )
    assert refused(given) == Code.INVALID_ACL, "an address is no authentication"
    assert refused(given, (SUPER,)) == Code.INVALID_ACL


@pytest.mark.parametrize(
    ("scheme", "id_", "valid"),
    [
        ("world", "x", False),
        ("world", "", False),
        ("digest", "foo", False),
        ("digest", "a:b", True),
        ("digest", "a:b:c", False),
        ("digest", ":b", True),
        ("digest", "a:", False),
        ("digest", "::", False),
        ("digest", "a:b::", True),
        ("digest", "", False),
        ("ip", "1.2.3", False),
        ("ip", "1.2.3.4", True),
        ("ip", "1.2.3.4.", False),
        ("ip", "1.2.3.256", False),
        ("ip", "1.2.3.-1", False),
        ("ip", "1.2.3.+4", True),
        ("ip", "1.2.3.4/32", True),
        ("ip", "1.2.3.4/33", False),
        ("ip", "1.2.3.4/", False),
        ("ip", "1.2.3.4/-1", False),
        ("ip", "1.2.3.4/1/1", False),
        ("ip", "1.2.3.\u0664", False),
        ("ip", "::1", True),
        ("ip", "::1/128", True),
        ("ip", "::1/129", False),
        ("ip", "::ffff:1.2.3.4", False),
        ("ip", "fe80::1%eth0", False),
        ("ip", "1::2::3", False),
        ("ip", "1:2:3:4:5:6:7:8:9", False),
        ("ip", "localhost", False),
        ("ip", "", False),
        ("sasl", "x", False),
        ("x509", "CN=x", False),
        ("super", "", False),
        ("", "", False),
    ],
)
def test_schemes_and_ids(scheme: str, id_: str, valid: bool) -> None:
    given = acl((31, scheme, id_))
    if valid:
        assert fix_acl(given, ()) == given
    else:
        assert refused(given) == Code.INVALID_ACL


def test_an_empty_list_is_refused() -> None:
    assert refused(()) == Code.INVALID_ACL


def test_masking() -> None:
    given = acl((31, "digest", "u:hash"), (1, "world", "anyone"), (2, "digest", "plain"), (4, "ip", "1.2.3.4"))
    assert mask_acl(given) == acl(
        (31, "digest", "u:x"), (1, "world", "anyone"), (2, "digest", "plain"), (4, "ip", "1.2.3.4")
    )
    assert mask_acl(OPEN_ACL) is OPEN_ACL


def test_authenticate() -> None:
    settings = Settings(super_digest=digest_id("super:top"))
    assert authenticate("digest", b"alice:secret", settings) == (ALICE,)
    assert authenticate("digest", b"up", settings) == (Id("digest", digest_id("up")),)
    assert authenticate("digest", b"super:top", settings) == (SUPER, Id("digest", digest_id("super:top")))
    assert authenticate("digest", b"super:low", settings) == (Id("digest", digest_id("super:low")),)
    assert authenticate("digest", b"super:top", Settings()) == (Id("digest", digest_id("super:top")),)
    assert authenticate("digest", None, settings) is None
    assert authenticate("ip", b"", settings) == ()
    for scheme in ("world", "sasl", "x509", "super", "auth", ""):
        assert authenticate(scheme, b"x:y", settings) is None


def test_addresses_are_written_as_java_does() -> None:
    assert ip_identity("127.0.0.1") == Id("ip", "127.0.0.1")
    assert ip_identity("::1") == Id("ip", "0:0:0:0:0:0:0:1")
    assert ip_identity("fe80::a0:1%eth0") == Id("ip", "fe80:0:0:0:0:0:a0:1%eth0")
    assert ip_identity("::ffff:10.0.0.7") == Id("ip", "10.0.0.7")


def test_user_names() -> None:
    assert user_name(ALICE) == "alice"
    assert user_name(LOCAL) == "127.0.0.1"
    assert user_name(SUPER) == ""
