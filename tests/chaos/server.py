"""Real servers that can be killed and come back on the same port with what their append-only files hold."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from quantum_common.bus.embedded import server_command
from quantum_common.testing import free_port
from quantum_common.testing.cluster import RunningCluster, running_cluster


class Server:
    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._command = server_command(folder, self.port)
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.kills = 0
        self._start()
        self._wait()

    def _start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def _wait(self) -> None:
        deadline = time.monotonic() + 10
        while True:
            try:
                return socket.create_connection(("127.0.0.1", self.port), timeout=0.2).close()
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def kill(self) -> None:
        """kill -9, and start it again; the clients find out by themselves when it answers."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self.kills += 1
        self._start()

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Server]:
    server = Server(folder)
    try:
        yield server
    finally:
        server.stop()


class Cluster:
    """Three masters, killed in turn."""

    def __init__(self, cluster: RunningCluster) -> None:
        self._masters, self.url, self.kills = cluster.masters, cluster.url, 0

    def kill(self) -> None:
        """kill -9 of one master, and start it again."""
        master = self._masters[self.kills % len(self._masters)]
        master.kill()
        self.kills += 1
        master.start()


@contextlib.contextmanager
def running_masters(folder: Path) -> Iterator[Cluster]:
    with running_cluster(folder) as cluster:
        yield Cluster(cluster)
