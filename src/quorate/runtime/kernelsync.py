"""Syncs files without a thread: Linux's asynchronous I/O (io_submit(2), IOCB_CMD_FSYNC and IOCB_CMD_FDSYNC, Linux 4.18).

The kernel syncs in a worker of its own and raises an eventfd, on which the loop waits as for any socket. It takes a
quarter of the CPU time of a thread of ours, which would have to win Python's interpreter lock from the loop twice for
every sync. Where it is not to be had (another system, an old kernel, a sandbox) :func:`open_kernel_sync` says so.
"""

import ctypes
import os
import sys
from struct import Struct
from typing import Final

_CALLS: Final = {"x86_64": (206, 207, 208, 209), "aarch64": (0, 1, 4, 2), "riscv64": (0, 1, 4, 2)}
"""Numbers of io_setup, io_destroy, io_getevents and io_submit."""
_IOCB: Final = Struct("<QIIHhIQQqQII")
"""struct iocb of linux/aio_abi.h: data, key, rw_flags, opcode, reqprio, fildes, buf, nbytes, offset, -, flags, resfd."""
_EVENT: Final = Struct("<QQqq")
"""struct io_event: data, obj, res, res2."""
_FSYNC: Final = 2
_FDSYNC: Final = 3
_FLAG_RESFD: Final = 1

MOST: Final = 8
"""Syncs that may be under way at once."""
# arguments of syscall(2) are longs; a plain int would be passed as half of one
_MOST: Final = ctypes.c_long(MOST)
_ONE: Final = ctypes.c_long(1)


class KernelSync:
    """Syncs under way, each known by the ``tag`` it was submitted with. ``eventfd`` is readable when some have ended."""

    __slots__ = (
        "_context",
        "_destroy",
        "_events",
        "_getevents",
        "_iocb",
        "_iocbs",
        "_submit",
        "_syscall",
        "eventfd",
        "under_way",
    )

    def __init__(self, calls: tuple[int, int, int, int], eventfd: int) -> None:
        setup, self._destroy, self._getevents, self._submit = map(ctypes.c_long, calls)
        # PyDLL keeps the interpreter's lock: the calls are short, and to let go of it costs more
        self._syscall = ctypes.PyDLL(None, use_errno=True).syscall
        self._context = ctypes.c_ulong(0)
        if self._syscall(setup, _MOST, ctypes.byref(self._context)) != 0:
            raise OSError(ctypes.get_errno(), "io_setup")
        self._iocb = ctypes.create_string_buffer(_IOCB.size)
        self._iocbs = ctypes.pointer(ctypes.c_void_p(ctypes.addressof(self._iocb)))
        self._events = ctypes.create_string_buffer(_EVENT.size * MOST)
        self.eventfd = eventfd
        self.under_way = 0

    def submit(self, fd: int, tag: int, whole: bool) -> None:
        """Begin an fsync (``whole``) or fdatasync. Raises OSError."""
        opcode = _FSYNC if whole else _FDSYNC
        _IOCB.pack_into(self._iocb, 0, tag, 0, 0, opcode, 0, fd, 0, 0, 0, 0, _FLAG_RESFD, self.eventfd)
        if self._syscall(self._submit, self._context, _ONE, self._iocbs) != 1:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        self.under_way += 1

    def ended(self, at_least: int = 0) -> list[tuple[int, int]]:
        """(tag, 0 or error number) of syncs that have ended; waits for ``at_least`` so many."""
        count = self._syscall(self._getevents, self._context, ctypes.c_long(at_least), _MOST, self._events, None)
        if count < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        self.under_way -= count
        found: list[tuple[int, int]] = []
        for index in range(count):
            tag, _, result, _ = _EVENT.unpack_from(self._events, index * _EVENT.size)
            found.append((tag, -result))
        return found

    def close(self) -> None:
        """Waits for what is under way. Its eventfd is closed too."""
        self._syscall(self._destroy, self._context)
        os.close(self.eventfd)


def open_kernel_sync() -> KernelSync | None:
    """None where the system has no such thing."""
    calls = _CALLS.get(os.uname().machine)
    if sys.platform != "linux" or sys.byteorder != "little" or calls is None or ctypes.sizeof(ctypes.c_void_p) != 8:
        return None
    eventfd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    try:
        return KernelSync(calls, eventfd)
    except OSError:
        os.close(eventfd)
        return None
