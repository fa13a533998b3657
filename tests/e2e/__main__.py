"""`make e2e-docker`: the fleet in containers, from its build to its end, as a user meets it.

1. A copy of the project in an empty folder, `cp .env.example .env`, `docker compose up -d --build --wait`: images are
   built, first models trained, decisions come. The documented calls and greps are made, Prometheus is asked for every
   rule and panel, each service is redeployed in turn under the running market.
2. The same models and candles in a new fleet at full speed. On the way three services are redeployed, and a fourth and
   Redis are killed. The digests must be those of `quantum up` on this machine, undisturbed.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from e2e.compose import Failed, Fleet, copy_of_the_project, run
from e2e.prometheus_check import check_within
from exchange_sim import synthetic
from quantum_cli.fleet import FLEET
from quantum_common.domain import AGENTS, SERVICE_PORTS

FLEET_NAME = "quantum-trader-e2e"
SYMBOLS = "BTCUSDT,ETHUSDT,SOLUSDT"
LARGEST_IMAGE_MB = 300
READY_WITHIN_S = 3.0
FIRST_START_WITHIN_S = 900.0
REDEPLOYED = ("meta-svc", "executor-svc", "xgb-agent")
KILLED = ("redis", "governer-svc")
SETTINGS = {"QT_SYMBOLS": SYMBOLS, "QT_MIN_CONFIDENCE_THRESHOLD": "0.45"}
STEP_MS = 3_600_000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bars", type=int, default=400, help="bars of the replay; default 400")
    parser.add_argument("--keep", action="store_true", help="leave the containers of the last part running")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="e2e-") as work:
        try:
            first = part_one(copy_of_the_project(Path(work) / "project"), Path(work))
            part_two(first, Path(work), options.bars, options.keep)
        except (Failed, subprocess.TimeoutExpired, httpx.HTTPError) as error:
            print(f"e2e-docker failed: {error}", file=sys.stderr)
            return 1
    return 0


def part_one(project: Path, work: Path) -> Fleet:
    """A user's first start. Leaves models and candles in `work`."""
    fleet = Fleet(project, FLEET_NAME)
    env = (project / ".env.example").read_text()
    (project / ".env").write_text(env + "".join(f"{name}={value}\n" for name, value in SETTINGS.items()))
    with ended(fleet):
        with timed("build"):
            fleet.compose("build")
        show_images()
        with timed("up with first models"):
            fleet.compose("up", "-d", "--wait", timeout_s=FIRST_START_WITHIN_S)
        say(f"first models: {last_line(fleet.logs('first-models'))}")
        await_decisions(50)
        http_calls()
        operator_commands(fleet)
        print(check_prometheus())
        show_memory(fleet)
        redeploy_each(fleet)
        fleet.compose("stop", "conductor")
        time.sleep(2)
        greps(fleet)
        fleet.compose("cp", "exchange-sim:/market", str(work / "market"))
        fleet.compose("cp", "meta-svc:/models", str(work / "models"))
        stop_all(fleet)
    return fleet


def part_two(fleet: Fleet, work: Path, bars: int, keep: bool) -> None:
    """The same replay here, undisturbed, and in containers, disturbed."""
    from_ms = synthetic.trading_from_ms("1h")
    to = datetime.fromtimestamp((from_ms + bars * STEP_MS) / 1000, UTC).strftime("%Y-%m-%dT%H:%M")
    with timed("local replay"):
        local = local_summary(work, from_ms, to)
    replay = Fleet(fleet.folder, FLEET_NAME, ("docker-compose.yml", "tests/e2e/replay.yml"))
    mounted = {"MODELS_VOLUME": str(work / "models"), "MARKET_VOLUME": str(work / "market"), "REPLAY_TO": to}
    with (fleet.folder / ".env").open("a") as env:
        env.writelines(f"{name}={value}\n" for name, value in {**mounted, "QT_FROM_MS": from_ms}.items())
    with ended(replay, keep):
        with timed("replay in containers"):
            replay.compose("up", "-d")
            disturb(replay, from_ms, bars)
            await_end(replay)
        compare(local, replay.logs("conductor"))


@contextmanager
def ended(fleet: Fleet, keep: bool = False) -> Iterator[None]:
    """Nothing of the fleet is left, unless it is asked for."""
    fleet.compose("down", "-v", "--remove-orphans")
    try:
        yield
    except BaseException:
        print(fleet.compose("ps", "-a"), fleet.compose("logs", "--no-color", "--tail", "5"), sep="\n", file=sys.stderr)
        raise
    finally:
        if not keep:
            fleet.compose("down", "-v", "--remove-orphans")


def show_images() -> None:
    """Sizes over the base; Failed for a serving image that is too large."""
    base = image_mb("python:3.11-slim-bookworm")
    sizes = {name: image_mb(f"quantum-trader/{name}") - base for name in ("operator", "training", *SERVING)}
    say("MB over the base: " + ", ".join(f"{name} {size:.0f}" for name, size in sizes.items()))
    if large := [name for name in SERVING if sizes[name] > LARGEST_IMAGE_MB]:
        raise Failed(f"more than {LARGEST_IMAGE_MB} MB over the base: {large}")


SERVING = tuple(name for name in SERVICE_PORTS if name != "trainer-svc")


def image_mb(name: str) -> float:
    return int(run("docker", "image", "inspect", "--format", "{{.Size}}", name)) / 1e6


def await_decisions(count: int) -> None:
    deadline = time.monotonic() + 120
    while (made := get("meta-svc", "/api/ai/meta/status")["total_predictions"]) < count:
        if time.monotonic() > deadline:
            raise Failed(f"{made} decisions after two minutes")
        time.sleep(0.5)


def http_calls() -> None:
    """Every documented call, on the published port."""
    for service in SERVING:
        for path in ("/health/live", "/info"):
            get(service, path)
    for service, path in DOCUMENTED:
        get(service, path)
    before = get("meta-svc", "/api/ai/meta/status")
    after = post("meta-svc", "/api/ai/meta/reset_stats")
    if not after["total_predictions"] < before["total_predictions"]:
        raise Failed(f"reset_stats did not reset: {after}")
    for service, path in (("governer-svc", "/api/risk/emergency_stop"), ("executor-svc", "/api/execution/flatten")):
        if (status := httpx.post(url_of(service, path), json={}, timeout=5).status_code) != 401:
            raise Failed(f"{path} without a token was answered with {status}")
    say(f"{len(DOCUMENTED) + 2 * len(SERVING) + 3} calls answered as documented")


DOCUMENTED = (
    ("meta-svc", "/api/ai/meta/status"),
    ("meta-svc", "/api/ai/meta/decisions?symbol=BTCUSDT&limit=1"),
    ("governer-svc", "/api/risk/status"),
    ("governer-svc", "/api/risk/config"),
    ("executor-svc", "/api/execution/orders"),
    ("executor-svc", "/api/execution/positions"),
    ("executor-svc", "/api/execution/trades"),
    ("recorder-svc", "/api/ledger/trades"),
    ("recorder-svc", "/api/streams"),
    ("monitor-svc", "/api/monitor/view"),
    ("exchange-sim", "/sim/status"),
)


def operator_commands(fleet: Fleet) -> None:
    """What the guide lets an operator ask in the conductor; Failed for an exit code that is not 0."""
    said = {command: fleet.compose("exec", "-T", "conductor", "quantum", *command.split()) for command in OPERATOR}
    if missing := [agent for agent in AGENTS if agent not in said["models list"]]:
        raise Failed(f"quantum models list in the conductor lacks {missing}: {said['models list']}")
    if restarts := fleet.inspect("conductor")["RestartCount"]:
        raise Failed(f"the conductor was ended {restarts} times beside its operator: is its memory limit too small?")


OPERATOR = ("status", "doctor", "monitor", "models list", "dead list")


def check_prometheus() -> Any:
    report = check_within("http://127.0.0.1:9090", 90)
    if report.findings:
        raise Failed(f"Prometheus: {report}")
    return report


def show_memory(fleet: Fleet) -> None:
    names = [container["Name"] for container in fleet.containers() if container["State"] == "running"]
    lines = run("docker", "stats", "--no-stream", "--format", "{{.Name}} {{.MemUsage}}", *names).splitlines()
    rows = [
        (line.split()[0].removeprefix(f"{FLEET_NAME}-").removesuffix("-1"), megabytes(line.split()[1]))
        for line in lines
    ]
    ours = sum(mb for name, mb in rows if name in (*SERVING, "conductor", "redis"))
    say(f"memory, MB: {', '.join(f'{name} {mb:.0f}' for name, mb in sorted(rows))}; the fleet with Redis {ours:.0f}")


def megabytes(text: str) -> float:
    number, unit = re.fullmatch(r"([\d.]+)(\w+)", text).groups()  # type: ignore[union-attr]
    return float(number) * {"B": 1e-6, "KiB": 1 / 1024, "MiB": 1, "GiB": 1024}[unit]


def redeploy_each(fleet: Fleet) -> None:
    """Every service in turn under the running market; what it still decides afterwards is checked by part two."""
    took = {member.name: fleet.redeploy(member.name) for member in FLEET}
    say("ready after, s: " + ", ".join(f"{name} {seconds:.1f}" for name, seconds in took.items()))
    made = get("meta-svc", "/api/ai/meta/status")["total_predictions"]
    await_decisions(made + 30)
    restarted = {member.name: fleet.inspect(member.name)["RestartCount"] for member in FLEET}
    if crashed := {name: count for name, count in restarted.items() if count}:
        raise Failed(f"crashed and started again: {crashed}")


def greps(fleet: Fleet) -> None:
    """The greps of the troubleshooting guide on `docker compose logs` count what status says of the same container."""
    post("meta-svc", "/api/ai/meta/reset_stats")
    before = decided(fleet)
    fleet.compose("start", "conductor")
    await_decisions(60)
    fleet.compose("stop", "conductor")
    time.sleep(3)
    status, lines = get("meta-svc", "/api/ai/meta/status"), decided(fleet)
    counted = {name: lines[name] - before[name] for name in lines}
    said = {
        "OVERRIDE": status["meta_overrides"],
        "FALLBACK": status["total_predictions"] - status["meta_overrides"],
        "APPROVED|REJECTED": status["total_predictions"],
    }
    if counted != said:
        raise Failed(f"grep counts {counted}, status says {said}")
    say(f"grep on docker compose logs counts what status says: {counted}")


def decided(fleet: Fleet) -> dict[str, int]:
    meta, risk = fleet.logs("meta-svc"), fleet.logs("governer-svc")
    return {
        "OVERRIDE": len(re.findall(r"\[META-V2\] \w+: OVERRIDE", meta)),
        "FALLBACK": len(re.findall(r"\[META-V2\] \w+: FALLBACK", meta)),
        "APPROVED|REJECTED": len(re.findall(r"\[GOVERNER\] \w+ (?:APPROVED|REJECTED)", risk)),
    }


def stop_all(fleet: Fleet) -> None:
    """SIGTERM drains every service: exit code 0, and not 137 of a kill after the grace period."""
    fleet.compose("stop")
    codes = {name: fleet.inspect(name)["State"]["ExitCode"] for name in SERVING}
    if any(codes.values()):
        raise Failed(f"not drained: {codes}")
    say(f"{len(codes)} services drained on SIGTERM with exit code 0")


def local_summary(work: Path, from_ms: int, to: str) -> dict[str, Any]:
    start = datetime.fromtimestamp(from_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M")
    run(
        sys.executable, "-m", "quantum_cli", "up", "--data", str(work / "market"), "--venue", synthetic.VENUE,
        "--symbols", SYMBOLS, "--timeframe", "1h", "--from", start, "--to", to, "--until-done",
        "--models", str(work / "models"), "--state-dir", str(work / "local"), "--port-offset", "23000",
        "--summary", str(work / "local.json"), env=SETTINGS,
    )  # fmt: skip
    return dict(json.loads((work / "local.json").read_text()))


def disturb(fleet: Fleet, from_ms: int, bars: int) -> None:
    """Redeploys and kills, spread over the replay."""
    steps = [*(("redeployed", name) for name in REDEPLOYED), *(("killed", name) for name in KILLED)]
    for number, (what, service) in enumerate(steps, start=1):
        await_bar(from_ms + number * bars // (len(steps) + 1) * STEP_MS)
        if what == "killed":
            fleet.kill(service)
            say(f"{service} killed")
        else:
            say(f"{service} redeployed, ready {fleet.redeploy(service):.1f} s after its start")


def await_bar(market_ms: int) -> None:
    deadline = time.monotonic() + 600
    while True:
        try:
            if get("exchange-sim", "/sim/status")["now_ms"] >= market_ms:
                return
        except httpx.HTTPError:
            pass
        if time.monotonic() > deadline:
            raise Failed("the market does not move")
        time.sleep(0.05)


def await_end(fleet: Fleet) -> None:
    deadline = time.monotonic() + 900
    while (state := fleet.inspect("conductor")["State"])["Status"] != "exited":
        if time.monotonic() > deadline:
            raise Failed(f"the replay does not end: {fleet.logs('conductor')[-2000:]}")
        time.sleep(1)
    if state["ExitCode"]:
        raise Failed(f"the conductor ended with {state['ExitCode']}: {fleet.logs('conductor')[-2000:]}")


def compare(local: dict[str, Any], log: str) -> None:
    """Failed unless decisions and ledger are the same, event by event."""
    found = {name: digest for name, digest in re.findall(r"^(decisions|ledger)\s+([0-9a-f]{64})$", log, re.MULTILINE)}
    say(
        f"here:          {local['decisions']} decisions, {local['fills']} fills, {local['closed_trades']} closed trades"
    )
    say(f"in containers: {next(line for line in log.splitlines() if ' decisions · ' in line and 'fills' in line)}")
    if found != {"decisions": local["decisions_digest"], "ledger": local["ledger_digest"]} or not local["fills"]:
        raise Failed(f"digests differ, or nothing was traded: here {local}, in containers {found}")
    print(
        f"e2e-docker redeploys={len(REDEPLOYED)} kills={len(KILLED)} digests=equal",
        found["decisions"],
        found["ledger"],
    )


def url_of(service: str, path: str) -> str:
    return f"http://127.0.0.1:{SERVICE_PORTS[service]}{path}"


def get(service: str, path: str) -> Any:
    response = httpx.get(url_of(service, path), timeout=10)
    if response.status_code != 200:
        raise Failed(f"GET {url_of(service, path)}: {response.status_code} {response.text[:500]}")
    return response.json()


def post(service: str, path: str) -> Any:
    return httpx.post(url_of(service, path), timeout=10).raise_for_status().json()


@contextmanager
def timed(what: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    say(f"{what}: {time.monotonic() - began:.0f} s")


def last_line(text: str) -> str:
    return text.strip().splitlines()[-1]


def say(text: str) -> None:
    print(f"{datetime.now(UTC):%H:%M:%S} {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
