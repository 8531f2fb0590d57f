"""A client's request on its way to the leader, and how it can be refused."""

from quorate.zookeeper.acl import Id


class RequestError(Exception):
    """The request is refused with a code of ``constants.Code``."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Request:
    """One write (or sync): what a learner forwards to the leader and the leader prepares.

    ``session`` and ``cxid`` name it to its client; ``op`` and ``body`` are the request type and its record without the
    header; ``identities`` what the client is authenticated as; ``origin`` tells by which member (a link of the leader,
    0 for itself) it came, for the session-moved check.
    """

    __slots__ = ("body", "cxid", "identities", "op", "origin", "session")

    def __init__(
        self, session: int, cxid: int, op: int, body: bytes, identities: tuple[Id, ...], origin: int = 0
    ) -> None:
        self.session = session
        self.cxid = cxid
        self.op = op
        self.body = body
        self.identities = identities
        self.origin = origin
