"""An uncommitted tail: a transaction that a member has in its log and nobody else has, as a leader that died leaves it."""

import time
from pathlib import Path
from zlib import adler32

from quorate.binary import pack_buffer, pack_string
from quorate.zookeeper.acl import PACKED_OPEN_ACL
from quorate.zookeeper.constants import Op
from quorate.zookeeper.txnlog import END, FORMAT_VERSION, HEADER, MAGIC, RECORD, log_name
from quorate.zookeeper.txns import HEADER as TXN_HEADER


def append_uncommitted_create(folder: Path, zxid: int, path: str) -> None:
    """Write a log file whose first transaction, ``zxid``, creates ``path``, into the data folder of a stopped member."""
    header = TXN_HEADER.pack(0, 0, zxid, int(time.time() * 1000), Op.CREATE)
    body = pack_string(path) + pack_buffer(b"never committed") + PACKED_OPEN_ACL + b"\0" + (1).to_bytes(4, "big")
    payload = header + body
    record = RECORD.pack(adler32(payload), len(payload)) + payload + END
    (folder / "version-2" / log_name(zxid)).write_bytes(HEADER.pack(MAGIC, FORMAT_VERSION, 0) + record)
