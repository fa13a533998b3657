"""A fleet in containers, as `docker compose` shows and moves it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx

from quantum_common.domain import SERVICE_PORTS

ROOT = Path(__file__).parents[2]
ANSWER_WITHIN_S = 120.0


class Failed(Exception):
    """What was promised did not happen."""


@dataclass(frozen=True)
class Fleet:
    """`docker compose` in one folder, under a project name of its own."""

    folder: Path
    name: str
    files: tuple[str, ...] = ("docker-compose.yml",)

    def compose(self, *arguments: str, timeout_s: float = 1800.0) -> str:
        """Standard output. Raises Failed with what the command said."""
        files = [part for file in self.files for part in ("-f", file)]
        return run(
            "docker",
            "compose",
            "--ansi",
            "never",
            "-p",
            self.name,
            *files,
            *arguments,
            folder=self.folder,
            timeout_s=timeout_s,
        )

    def logs(self, *services: str) -> str:
        text = self.compose("logs", "--no-color", "--no-log-prefix", *services)
        return re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text)  # some versions of Compose clear the line all the same

    def containers(self) -> list[dict[str, Any]]:
        lines = self.compose("ps", "-a", "--format", "json").splitlines()
        return [json.loads(line) for line in lines if line]

    def inspect(self, service: str) -> dict[str, Any]:
        container = self.compose("ps", "-a", "-q", service).strip()
        return dict(json.loads(run("docker", "inspect", container))[0])

    def kill(self, service: str) -> None:
        """SIGKILL to its process from outside, as the kernel does when memory is short: the engine starts it again."""
        os.kill(int(self.inspect(service)["State"]["Pid"]), signal.SIGKILL)

    def redeploy(self, service: str) -> float:
        """As a user does it; seconds from the new container's start until the service is ready."""
        self.compose("up", "-d", "--no-deps", "--build", "--force-recreate", service)
        return self.ready_after_s(service)

    def ready_after_s(self, service: str) -> float:
        """Seconds from the start of the container until /health/ready answers 200."""
        url, deadline = f"http://127.0.0.1:{SERVICE_PORTS[service]}/health/ready", time.monotonic() + ANSWER_WITHIN_S
        while True:
            try:
                if httpx.get(url, timeout=2).status_code == 200:
                    break
            except httpx.HTTPError:
                pass
            if time.monotonic() > deadline:
                raise Failed(f"{service} is not ready: {self.logs(service)[-2000:]}")
            time.sleep(0.02)
        began = datetime.fromisoformat(self.inspect(service)["State"]["StartedAt"][:26] + "+00:00").timestamp()
        return time.time() - began


def run(*command: str, folder: Path = ROOT, timeout_s: float = 1800.0, env: Mapping[str, str] | None = None) -> str:
    done = subprocess.run(
        command,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        env={**os.environ, **(env or {})},
    )
    if done.returncode:
        raise Failed(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return done.stdout


def copy_of_the_project(folder: Path) -> Path:
    """The files that git knows, as they stand now: what a user's fresh clone holds."""
    for name in run("git", "ls-files", "-z").split("\0"):
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder
