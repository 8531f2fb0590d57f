"""What is said of this very process, against the system's own tools."""

import os
import resource
import time

from quorate.runtime.process import host_environment, usage


def test_usage_is_plausible_and_follows_what_the_process_does() -> None:
    before = usage()
    held = [open("/dev/null") for _ in range(5)]  # noqa: SIM115 - they are closed below
    ballast = bytearray(64 << 20)
    ballast[::4096] = b"x" * len(ballast[::4096])
    after = usage()
    for file in held:
        file.close()
    assert after.open_files == before.open_files + 5
    assert after.resident_bytes >= before.resident_bytes + (60 << 20)
    assert after.virtual_bytes > after.resident_bytes
    assert after.cpu_seconds >= before.cpu_seconds > 0
    assert after.max_files == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert 0 < after.started <= time.time() + 1
    assert after.started == before.started


def test_the_host_is_described_under_apaches_names() -> None:
    names = dict(host_environment())
    assert next(iter(names)) == "host.name"
    assert names["os.name"] == os.uname().sysname
    assert names["user.dir"] == os.getcwd()
    for name in ("os.memory.free", "os.memory.max", "os.memory.total"):
        assert names[name].endswith("MB")
        assert int(names[name].removesuffix("MB")) > 0
    assert all(name and value for name, value in names.items())
