"""A real Prometheus over a fleet on this machine, with the rules of `ops/`; only where it scrapes is another.

By hand, beside `quantum up`: `python -m e2e.local_prometheus [PORT_OFFSET]`, until Ctrl-C.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import yaml

from e2e.expressions import OPS
from quantum_cli.fleet import FLEET, VENUE
from quantum_common.testing import free_port

MISSING = "prometheus is not on PATH (Debian: apt-get install prometheus)"
SCRAPE_S = 1
"""Instead of 5: a test has less time than an operator."""


def is_installed() -> bool:
    return bool(shutil.which("prometheus") and shutil.which("promtool"))


def local_config(ops: Path, services: Collection[str], port_offset: int, own_port: int) -> dict[str, Any]:
    """`ops/prometheus/prometheus.yml` for the services that run here, behind an offset of their ports."""
    config: dict[str, Any] = yaml.safe_load((ops / "prometheus/prometheus.yml").read_text())
    config["global"] = {name: f"{SCRAPE_S}s" for name in config["global"]}
    config["rule_files"] = [str(ops / "prometheus/alerts.yml")]
    for job in config["scrape_configs"]:
        rows = [row for row in job["static_configs"] if row["labels"]["service"] in {*services, "prometheus"}]
        for row in rows:
            port = int(row["targets"][0].rpartition(":")[2])
            own = row["labels"]["service"] == "prometheus"
            row["targets"] = [f"127.0.0.1:{own_port if own else port + port_offset}"]
        job["static_configs"] = rows
    return config


@contextmanager
def running_prometheus(folder: Path, services: Collection[str], port_offset: int, ops: Path = OPS) -> Iterator[str]:
    """Start one that keeps its data in `folder`, yield its URL, end that process."""
    port = free_port()
    config = folder / "prometheus.yml"
    config.write_text(yaml.safe_dump(local_config(ops, services, port_offset, port)))
    command = [
        "prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn",
    ]  # fmt: skip
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            _wait_for(f"http://127.0.0.1:{port}", process)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(timeout=20)


def main() -> None:
    services = {member.name for member in (VENUE, *FLEET)}
    offset = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    with (
        contextlib.suppress(KeyboardInterrupt),
        TemporaryDirectory() as folder,
        running_prometheus(Path(folder), services, offset) as url,
    ):
        print(f"{url}/alerts, until Ctrl-C", flush=True)
        signal.pause()


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"prometheus ended with {process.returncode}: see prometheus.log")
        try:
            if httpx.get(f"{url}/-/ready").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise RuntimeError("prometheus was not ready within 20 s")


if __name__ == "__main__":
    main()
