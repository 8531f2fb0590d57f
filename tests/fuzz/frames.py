"""What goes to the three ports of a member, as it should be and mutated: drawn from a random.Random, so a seed repeats it."""

import struct
from random import Random

from tests.support.raw import (
    NO_PASSWORD,
    create_body,
    multi_body,
    path_version_body,
    path_watch_body,
    set_body,
    strings_body,
)

from quorate.binary import pack_buffer, pack_string
from quorate.consensus.zab.messages import (
    REQUEST,
    REVALIDATE,
    SYNC,
    AckEpoch,
    Acks,
    Diff,
    FollowerInfo,
    LeaderInfo,
    Message,
    NewLeader,
    Notification,
    Ping,
    Service,
    Snap,
    Trunc,
    UpToDate,
    Vote,
)
from quorate.consensus.zab.wire import UNKNOWN_OBSERVER, encode, encode_notification, greeting
from quorate.zookeeper.constants import Op

EDGES = (-(2**31), -65536, -2, -1, 0, 1, 7, 8, 1024, 65536, 2**20, 2**20 + 1, 2**24, 2**31 - 1)
"""Lengths and counts that decoders get wrong."""
LONGS = (-(2**63), -1, 0, 1, 2, 3, 4, 2**31, 1 << 32, 2**63 - 1)


def mutated(random: Random, data: bytes) -> bytes:
    """``data`` after none to three mutations."""
    out = bytearray(data)
    for _ in range(random.choice((0, 1, 1, 1, 2, 3))):
        at = random.randrange(len(out) + 1)
        match random.randrange(8):
            case 0:
                del out[at:]
            case 1:
                for _ in range(random.randint(1, 8)):
                    if out:
                        out[random.randrange(len(out))] ^= 1 << random.randrange(8)
            case 2:
                out[at:at] = random.randbytes(random.randint(1, 64))
            case 3:
                del out[at : at + random.randint(1, 16)]
            case 4 | 5:
                # lengths and types are mostly at multiples of four
                at -= at % 4
                out[at : at + 4] = struct.pack(">i", random.choice(EDGES))
            case 6:
                out[at:at] = out[: random.randint(0, len(out))]
            case _:
                size = random.choice((1, 4, 16, 100, 5000))
                out[at:] = random.randbytes(size)
    return bytes(out)


def client_bytes(random: Random) -> bytes:
    """A handshake and a few requests of a client."""
    session = random.choice((0, 0, 0, 0, 0, random.getrandbits(63), -1))
    password = random.choice((NO_PASSWORD, NO_PASSWORD, b"", random.randbytes(16), random.randbytes(300)))
    zxid = random.choice((0, 0, 0, 0, *LONGS))
    timeout = random.choice((4000, 4000, 4000, *EDGES))
    connect = struct.pack(">iqiq", random.choice((0, 0, 0, 5, -1)), zxid, timeout, session) + pack_buffer(password)
    frames = [pack_buffer(connect + random.choice((b"", b"\0", b"\1")))]
    for xid in range(1, random.randint(2, 8)):
        op, body = _request(random)
        frames.append(pack_buffer(struct.pack(">ii", xid, op) + body))
    return b"".join(mutated(random, frame) if random.random() < 0.5 else frame for frame in frames)


def _path(random: Random) -> str:
    name = f"/fuzz/{random.randrange(20)}"
    return random.choice(
        (name, name, name, "/fuzz", "/", "", "relative", name + "/", "//", "/a/../b", "/\0", "/zookeeper")
    )


def _request(random: Random) -> tuple[int, bytes]:
    path = _path(random)
    data = random.choice((b"", None, b"x", random.randbytes(300)))
    acl = random.choice((None, None, [], [(31, "digest", "a:b"), (-1, "nosuch", ""), (1, "ip", "10.0.0.0/33")]))
    version = random.choice((-1, 0, 1, *EDGES))
    bodies: list[tuple[int, bytes]] = [
        (Op.CREATE, create_body(path, data, acl, random.choice((0, 1, 2, 3, 4, 5, 6, 7, -1, 99)))),
        (Op.CREATE2, create_body(path, data, acl, random.choice((0, 1, 2, 3)))),
        (Op.CREATE_CONTAINER, create_body(path, data, acl, 4)),
        (Op.CREATE_TTL, create_body(path, data, acl, 5) + struct.pack(">q", random.choice(LONGS))),
        (Op.DELETE, path_version_body(path, version)),
        (Op.SET_DATA, set_body(path, data, version)),
        (Op.CHECK, path_version_body(path, version)),
        (Op.SYNC, pack_string(path)),
        (Op.AUTH, struct.pack(">i", 0) + pack_string(random.choice(("digest", "ip", "x509", ""))) + pack_buffer(data)),
        (Op.MULTI, multi_body([(Op.CREATE, create_body(path)), (Op.DELETE, path_version_body(path, version))])),
        (Op.MULTI, multi_body([])),
        (Op.MULTI_READ, multi_body([(Op.GET_DATA, path_watch_body(path)), (Op.GET_CHILDREN, path_watch_body(path))])),
        (Op.SET_WATCHES, struct.pack(">q", random.choice(LONGS)) + 3 * strings_body([path])),
        (Op.SET_WATCHES2, struct.pack(">q", random.choice(LONGS)) + 5 * strings_body([path])),
        (Op.ADD_WATCH, path_version_body(path, random.choice((0, 1, 2, -1)))),
        (Op.REMOVE_WATCHES, path_version_body(path, random.choice((1, 2, 3, 9)))),
        (Op.CHECK_WATCHES, path_version_body(path, random.choice((1, 2, 3, 9)))),
        (Op.GET_EPHEMERALS, pack_string(path)),
        (Op.GET_ALL_CHILDREN_NUMBER, pack_string(path)),
        (Op.WHO_AM_I, b""),
        (Op.PING, b""),
        (Op.SASL, pack_buffer(data)),
        (Op.RECONFIG, 3 * pack_string(path) + struct.pack(">q", -1)),
        (Op.CLOSE_SESSION, b""),
        (random.randint(-20, 120), random.randbytes(random.randrange(100))),
    ]
    reads = (Op.GET_DATA, Op.EXISTS, Op.GET_CHILDREN, Op.GET_CHILDREN2, Op.GET_ACL)
    bodies += [(op, path_watch_body(path, random.random() < 0.5)) for op in reads]
    return random.choice(bodies)


def election_bytes(random: Random) -> bytes:
    """A greeting of a peer, mostly of one that there is not, and a few notifications."""
    sid = random.choice((0, 4, 5, 200, UNKNOWN_OBSERVER, UNKNOWN_OBSERVER, 3, *LONGS))
    parts = [greeting(sid, random.choice(("127.0.0.1:3888", "[::1]:1", "", "a" * 3000)))]
    for _ in range(random.randint(0, 4)):
        vote = Vote(random.choice((1, 2, 3, *LONGS)), random.choice(LONGS), random.choice((0, 1, 2, *LONGS)))
        config = random.choice((b"", b"", b"version=100000000\n", random.randbytes(400)))
        round_ = random.choice((0, 1, 2, *LONGS))
        note = Notification(random.choice((0, 1, 2, 3, 0, -1, 4)), vote, round_, random.choice((0, 1, 2)), config)
        parts.append(encode_notification(note))
    return b"".join(mutated(random, part) if random.random() < 0.6 else part for part in parts)


def quorum_bytes(random: Random) -> bytes:
    """What a learner says to a leader, and sometimes what a leader says.

    Not by the sid of a member: a stranger that speaks for a voter can always make the ensemble elect anew.
    """
    sid = random.choice((4, 5, 77, 0, -1, -(2**63), 2**63 - 1))
    epoch = random.choice((0, 0, 1, 1, 2, 5, 2**31 - 1))
    zxid = random.choice(LONGS)
    request = struct.pack(">qii", random.getrandbits(63), 1, random.choice((Op.CREATE, Op.SET_DATA, Op.SYNC, -10, 999)))
    first: Message = FollowerInfo(sid, epoch, random.random() < 0.8, random.choice((0, 0, 1 << 32)))
    others: list[Message] = [
        AckEpoch(zxid, random.choice((-1, 0, 1))),
        Acks(0, random.choice((0, 0, 2))),
        Ping(zxid, random.choice((None, b"", struct.pack(">qi", 1, 4000), random.randbytes(30)))),
        Service(REQUEST, request + create_body("/fuzz/forwarded"), (("world", "anyone"),)),
        Service(REQUEST, random.choice((None, b"", request[:7], request)), ()),
        Service(REVALIDATE, struct.pack(">qi", random.getrandbits(63), 4000), None),
        Service(REVALIDATE, random.randbytes(5), None),
        Service(SYNC, random.choice((None, b"x")), None),
        LeaderInfo(epoch),
        NewLeader(epoch << 32, b"version=0\n"),
        UpToDate(),
        Diff(zxid),
        Trunc(zxid),
        Snap(zxid),
    ]
    messages = [first] if random.random() < 0.9 else []
    if random.random() < 0.7:
        messages += [AckEpoch(zxid, random.choice((-1, 0, 1))), Acks(1 << 32, 1 << 32)]
    messages += random.choices(others, k=random.randint(0, 5))
    parts = [encode(message) for message in messages]
    return b"".join(mutated(random, part) if random.random() < 0.4 else part for part in parts)
