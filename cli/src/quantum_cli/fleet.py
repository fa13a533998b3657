"""The processes of the local fleet: what each is started with, and where it answers."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import psutil

from quantum_cli.errors import UsageError
from quantum_common.domain import SERVICE_PORTS


@dataclass(frozen=True, slots=True)
class FleetMember:
    """A service of the line: its module to run and the port it listens on."""

    name: str
    module: str
    port: int
    path: str = "/info"
    """What a person would look at first."""
    awaited: str = "/health/live"
    """What must answer 200 before the market starts: readiness where it does not depend on a bar."""

    @property
    def service(self) -> str:
        """Which service this is a process of; its name tells replicas apart."""
        return self.module.replace("_", "-")

    @property
    def argv(self) -> list[str]:
        return [sys.executable, "-m", self.module]


ACCOUNT = "paper"
READY_WITHIN_S = 90.0
READY = "/health/ready"
VENUE = FleetMember("exchange-sim", "exchange_sim", SERVICE_PORTS["exchange-sim"], "/sim/status")
FLEET: tuple[FleetMember, ...] = (
    FleetMember("feature-svc", "feature_svc", SERVICE_PORTS["feature-svc"]),
    FleetMember("xgb-agent", "xgb_agent", SERVICE_PORTS["xgb-agent"], awaited=READY),
    FleetMember("lgbm-agent", "lgbm_agent", SERVICE_PORTS["lgbm-agent"], awaited=READY),
    FleetMember("patchtst-agent", "patchtst_agent", SERVICE_PORTS["patchtst-agent"], awaited=READY),
    FleetMember("nhits-agent", "nhits_agent", SERVICE_PORTS["nhits-agent"], awaited=READY),
    FleetMember("meta-svc", "meta_svc", SERVICE_PORTS["meta-svc"], "/api/ai/meta/status", awaited=READY),
    FleetMember("governer-svc", "governer_svc", SERVICE_PORTS["governer-svc"], "/api/risk/status"),
    FleetMember("executor-svc", "executor_svc", SERVICE_PORTS["executor-svc"], "/api/execution/positions"),
    FleetMember("recorder-svc", "recorder_svc", SERVICE_PORTS["recorder-svc"], "/api/ledger/trades", awaited=READY),
    FleetMember("monitor-svc", "monitor_svc", SERVICE_PORTS["monitor-svc"], "/"),
)
TRAINER = FleetMember("trainer-svc", "trainer_svc", SERVICE_PORTS["trainer-svc"], "/api/training/status")
"""Not in a replay unless it is asked for: a training takes wall time, so the replay would not repeat."""
SERVICES: tuple[FleetMember, ...] = (VENUE, *FLEET, TRAINER)
"""Every service there is."""


def check_ports_free(offset: int) -> None:
    """UsageError that names every taken port and who holds it, before anything is started."""
    if holders := port_holders(offset):
        taken = ", ".join(f"{port} ({name}; held by {holder})" for port, (name, holder) in sorted(holders.items()))
        raise UsageError(f"port taken: {taken}. Stop what uses it, or move the whole fleet with --port-offset N")


def port_holders(offset: int) -> dict[int, tuple[str, str]]:
    """The fleet's ports that are taken on this machine: whose each one is, and the process that listens there."""
    wanted = {member.port + offset: member.name for member in SERVICES}
    return {
        connection.laddr.port: (wanted[connection.laddr.port], _process_name(connection.pid))
        for connection in psutil.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port in wanted
    }


def _process_name(pid: int | None) -> str:
    if pid is None:
        return "another user's process"
    try:
        return f"{psutil.Process(pid).name()}, pid {pid}"
    except psutil.Error:
        return f"pid {pid}"
