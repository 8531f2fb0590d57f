"""Session passwords: what a client shows to take up its session at another server (ZooKeeperServer.generatePasswd).

The password is a function of the session id alone, so every server of an ensemble can check it, Apache's and ours. It
keeps clients from taking up a wrong session by mistake; it is no secret.
"""

from struct import Struct

PASSWORD_BYTES = 16

_SECRET = 0xB3415C00

# java.util.Random: a 48-bit linear congruential generator whose high 32 bits are the next int
_MULTIPLIER = 0x5DEECE66D
_INCREMENT = 0xB
_MASK = (1 << 48) - 1
# nextBytes gives out the bytes of each int from the lowest
_FOUR_INTS = Struct("<IIII")


def session_password(session: int) -> bytes:
    """The 16 bytes that belong to ``session``, a signed 64-bit id."""
    first = ((session ^ _SECRET ^ _MULTIPLIER) * _MULTIPLIER + _INCREMENT) & _MASK
    second = (first * _MULTIPLIER + _INCREMENT) & _MASK
    third = (second * _MULTIPLIER + _INCREMENT) & _MASK
    fourth = (third * _MULTIPLIER + _INCREMENT) & _MASK
    return _FOUR_INTS.pack(first >> 16, second >> 16, third >> 16, fourth >> 16)


def password_matches(session: int, password: bytes) -> bool:
    """Whether a client that shows ``password`` may take up ``session``; nobody may take up session 0."""
    return session != 0 and password == session_password(session)
