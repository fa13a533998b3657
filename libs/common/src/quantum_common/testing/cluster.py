"""A real cluster of masters for tests, on free loopback ports, each of which can be killed and started again."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

from quantum_common.bus.embedded import server_command
from quantum_common.testing.server import free_port

SLOTS = 16_384
NODE_TIMEOUT_MS = 2_000


@dataclass
class Master:
    """One server of the cluster; its port and data folder stay the same over restarts."""

    data_dir: Path
    port: int = field(default_factory=free_port)
    bus_port: int = field(default_factory=free_port)
    """Where the nodes talk to each other."""
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it has read its append-only file."""
        options = {
            "cluster-enabled": "yes",
            "cluster-config-file": "nodes.conf",
            "cluster-node-timeout": str(NODE_TIMEOUT_MS),
            "cluster-port": str(self.bus_port),
        }
        command = server_command(self.data_dir, self.port)
        command += [part for name, value in options.items() for part in (f"--{name}", value)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _wait("a master answers", lambda: self.ask("PING") == b"PONG")

    def kill(self) -> None:
        """As kill -9 does: what it acknowledged is in its append-only file."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(timeout=10)

    def ask(self, *command: str | int) -> bytes:
        """The raw reply to a command."""
        with Redis(port=self.port, socket_timeout=5) as client:
            client.response_callbacks.clear()
            reply: bytes = client.execute_command(*command)
            return reply

    @property
    def is_ok(self) -> bool:
        """Every slot is served, as far as this node knows."""
        return b"cluster_state:ok" in self.ask("CLUSTER", "INFO")


@dataclass(frozen=True)
class RunningCluster:
    masters: tuple[Master, ...]

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"127.0.0.1:{master.port}" for master in self.masters)

    def wait_until_ok(self) -> None:
        _wait("the cluster serves every slot", lambda: all(master.is_ok for master in self.masters))

    def master_of(self, key: str) -> Master:
        """The one that has a key's slot."""
        slot = int(self.masters[0].ask("CLUSTER", "KEYSLOT", key))
        return self.masters[slot * len(self.masters) // SLOTS]


@contextmanager
def running_cluster(data_dir: Path, nodes: int = 3) -> Iterator[RunningCluster]:
    """Start masters with equal shares of the slots, yield the cluster, end those processes."""
    masters = tuple(Master(data_dir / f"node-{number}") for number in range(nodes))
    try:
        for number, master in enumerate(masters):
            master.start()
            first, last = (-(-SLOTS * share // nodes) for share in (number, number + 1))
            master.ask("CLUSTER", "ADDSLOTSRANGE", first, last - 1)
            master.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for master in masters[1:]:
            master.ask("CLUSTER", "MEET", "127.0.0.1", masters[0].port, masters[0].bus_port)
        cluster = RunningCluster(masters)
        cluster.wait_until_ok()
        yield cluster
    finally:
        for master in masters:
            master.kill()


def _wait(what: str, check: Callable[[], bool], within_s: float = 30.0) -> None:
    deadline, problem = time.monotonic() + within_s, ""
    while True:
        try:
            if check():
                return
        except RedisError as error:  # not up yet, or reading its append-only file
            problem = f": {error}"
        if time.monotonic() > deadline:
            raise RuntimeError(f"not within {within_s:.0f} s: {what}{problem}")
        time.sleep(0.02)
