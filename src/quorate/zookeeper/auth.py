"""Who a client is and what an access control list lets it do.

Schemes: ``world`` (anyone), ``auth`` (whoever set the list, expanded when it is set), ``digest`` (user and password), ``ip``
(given to every connection) and ``super`` (whoever knows the super password; no list binds it). A list that names any other
scheme is refused, as Apache does when no provider for it is configured.

Sources: ZooKeeperServer.checkACL, PrepRequestProcessor.fixupACL, ProviderRegistry, DigestAuthenticationProvider,
IPAuthenticationProvider, FinalRequestProcessor (masking), AuthUtil.
"""

import re
from base64 import b64encode
from functools import lru_cache
from hashlib import sha1
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Final

from quorate.zookeeper.acl import OPEN_ACL, Acl, AclEntry, Id
from quorate.zookeeper.constants import Code
from quorate.zookeeper.request import RequestError
from quorate.zookeeper.settings import Settings

SUPER: Final = Id("super", "")
ANYONE: Final = ("world", "anyone")

_JAVA_INT = re.compile(r"[+-]?[0-9]{1,10}\Z")
_LONGEST_RANGE: Final = 64
"""Longer texts are no address range; the bound keeps what the caches hold small."""
_HEX_GROUP = re.compile(r"[0-9a-fA-F]{1,4}\Z")


def permitted(acl: Acl, perm: int, identities: tuple[Id, ...]) -> bool:
    """Whether ``acl`` grants any of the bits ``perm`` to a client with these identities. An empty list binds nobody."""
    if acl is OPEN_ACL or not acl:
        return True
    for identity in identities:
        if identity[0] == "super":
            return True
    for perms, scheme, id_ in acl:
        if perms & perm:
            if scheme == "world":
                if id_ == "anyone":
                    return True
            elif scheme == "digest":
                if (scheme, id_) in identities:
                    return True
            elif scheme == "ip":
                for own_scheme, own_id in identities:
                    if own_scheme == "ip" and _address_matches(own_id, id_):
                        return True
    return False


def fix_acl(acl: Acl, identities: tuple[Id, ...]) -> Acl:
    """The list as it is stored: without repeated entries, ``auth`` replaced by the caller's authenticated identities.

    Raises RequestError(INVALID_ACL) for an empty list, an entry of an unknown scheme or with a malformed id, or ``auth``
    from a client that is not authenticated.
    """
    if acl is OPEN_ACL:
        return acl
    fixed: list[AclEntry] = []
    for entry in dict.fromkeys(acl):
        perms, scheme, id_ = entry
        if scheme == "auth":
            # the ip scheme identifies but does not authenticate, and super is a privilege, not an identity
            own = [AclEntry(perms, "digest", identity.id) for identity in identities if identity.scheme == "digest"]
            if not own:
                raise RequestError(Code.INVALID_ACL)
            fixed += own
        elif (scheme, id_) == ANYONE or (scheme == "digest" and _is_digest(id_)) or (scheme == "ip" and _is_range(id_)):
            fixed.append(entry)
        else:
            raise RequestError(Code.INVALID_ACL)
    if not fixed:
        raise RequestError(Code.INVALID_ACL)
    result = tuple(fixed)
    return OPEN_ACL if result == OPEN_ACL else result


def mask_acl(acl: Acl) -> Acl:
    """The list as getACL shows it to a client without ADMIN: digests without the hash of the password."""
    if acl is OPEN_ACL:
        return acl
    return tuple([_masked(entry) if entry.scheme == "digest" else entry for entry in acl])


def _masked(entry: AclEntry) -> AclEntry:
    user, colon, _ = entry.id.partition(":")
    return AclEntry(entry.perms, "digest", user + ":x") if colon else entry


def digest_id(user_password: str) -> str:
    """``user:base64(sha1("user:password"))`` of ``user:password``."""
    digest = b64encode(sha1(user_password.encode()).digest()).decode()
    return user_password.partition(":")[0] + ":" + digest


def authenticate(scheme: str, data: bytes | None, settings: Settings) -> tuple[Id, ...] | None:
    """The identities an auth packet earns (none new for ``ip``, two for the super user), or None if it is refused."""
    if scheme == "ip":
        return ()
    if scheme != "digest" or data is None:
        return None
    own = digest_id(data.decode("utf-8", "replace"))
    if settings.super_digest is not None and own == settings.super_digest:
        return (SUPER, Id("digest", own))
    return (Id("digest", own),)


def ip_identity(address: str) -> Id:
    """The identity every connection has, with the address as Java writes it (IPv6 in full, mapped IPv4 as IPv4)."""
    if ":" not in address:
        return Id("ip", address)
    plain, percent, zone = address.partition("%")
    try:
        parsed = IPv6Address(plain)
    except AddressValueError:
        return Id("ip", address)
    if parsed.ipv4_mapped is not None:
        return Id("ip", str(parsed.ipv4_mapped))
    groups = ":".join([f"{int(group, 16):x}" for group in parsed.exploded.split(":")])
    return Id("ip", groups + percent + zone)


def user_name(identity: Id) -> str:
    """What whoAmI tells of an identity: a digest's user without the hash, nothing for super."""
    if identity.scheme == "digest":
        return identity.id.partition(":")[0]
    return "" if identity.scheme == "super" else identity.id


def _is_digest(id_: str) -> bool:
    # Java's split drops empty parts at the end, so "user:hash:" passes and "user:" does not
    return id_.rstrip(":").count(":") == 1


def _is_range(id_: str) -> bool:
    return len(id_) <= _LONGEST_RANGE and _range(id_) is not None


@lru_cache(maxsize=4096)
def _range(text: str) -> tuple[int, int, int] | None:
    """``address[/bits]`` as (width of the family in bits, address shifted right, shift); None if it is none."""
    address, slash, bits = text.partition("/")
    parsed = _address(address)
    if parsed is None:
        return None
    width, value = parsed
    kept = width
    if slash:
        number = _java_int(bits)
        if number is None or not 0 <= number <= width:
            return None
        kept = number
    shift = width - kept
    return width, value >> shift, shift


@lru_cache(maxsize=4096)
def _address(text: str) -> tuple[int, int] | None:
    """An address as (width of the family in bits, value)."""
    if ":" in text:
        # IPv6Address also takes a zone and a dotted tail, which Apache's parser does not
        groups = [group for part in text.split("::") if part for group in part.split(":")]
        if not all(_HEX_GROUP.match(group) for group in groups):
            return None
        try:
            return 128, int(IPv6Address(text))
        except AddressValueError:
            return None
    parts = [_java_int(part) for part in text.split(".")]
    octets = [part for part in parts if part is not None and 0 <= part <= 255]
    if len(parts) != 4 or len(octets) != 4:
        return None
    return 32, int(IPv4Address(bytes(octets)))


def _address_matches(own: str, expression: str) -> bool:
    if len(expression) > _LONGEST_RANGE or len(own) > _LONGEST_RANGE:
        return False
    wanted = _range(expression)
    address = _address(own)
    if wanted is None or address is None:
        return False
    width, prefix, shift = wanted
    return address[0] == width and address[1] >> shift == prefix


def _java_int(text: str) -> int | None:
    """Integer.parseInt: an optional sign and ASCII digits."""
    return int(text) if _JAVA_INT.match(text) else None
