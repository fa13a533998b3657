"""A real server that can be killed and comes back on the same port with what its append-only file holds."""

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


class Server:
    def __init__(self, folder: Path) -> None:
        self._port = free_port()
        self._command = server_command(folder, self._port)
        self.url = f"redis://127.0.0.1:{self._port}/0"
        self.kills = 0
        self._start()
        self._wait()

    def _start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def _wait(self) -> None:
        deadline = time.monotonic() + 10
        while True:
            try:
                return socket.create_connection(("127.0.0.1", self._port), timeout=0.2).close()
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
