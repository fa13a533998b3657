"""What `quantum status` knows: one look at every service of a fleet, and what is wrong with it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from quantum_cli.fleet import FLEET, SERVICES, VENUE
from quantum_cli.reach import Answer, Reach, ask_all

QUESTIONS = {"live": "/health/live", "ready": "/health/ready", "info": "/info"}
META, RISK, POSITIONS, STREAMS = "meta", "risk", "positions", "streams"
FACTS = {
    META: ("meta-svc", "/api/ai/meta/status"),
    RISK: ("governer-svc", "/api/risk/status"),
    POSITIONS: ("executor-svc", "/api/execution/positions"),
    STREAMS: ("recorder-svc", "/api/streams"),
}
LINE = frozenset(member.name for member in FLEET)
RISK_FIELDS = (
    "trading_state", "emergency_stop", "equity", "current_balance", "peak_balance", "drawdown", "exposure_usd",
    "exposure_limit_usd", "daily_trades", "max_daily_trades",
)  # fmt: skip


class ServiceStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One service as it answers. `needed`: without it the fleet does not work."""

    service: str
    url: str
    needed: bool
    live: bool
    ready: bool
    reasons: list[str]
    """Why it is not both."""
    version: str | None = None
    instance: str | None = None
    model: str | None = None
    """Version that it serves."""
    quality: str | None = None


class FleetStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One look. Money in USD, shares as fractions; None where the service that knows did not answer."""

    fleet: str
    """How it was found."""
    mode: str
    good: bool
    problems: list[str]
    services: list[ServiceStatus]
    meta: dict[str, Any] | None
    risk: dict[str, Any] | None
    positions: list[dict[str, Any]] | None
    dead_letters: dict[str, int] | None
    """By stream, those that have some."""
    alarms: list[str]
    """What the recorder's watch over the streams says."""


async def look(reach: Reach) -> FleetStatus:
    """Ask every service at once; never raises for one that is silent."""
    names = [member.name for member in SERVICES]
    asked: dict[tuple[str, str], tuple[str, str]] = {
        (name, question): (name, path) for name in names for question, path in QUESTIONS.items()
    }
    answers = await ask_all(reach, {**asked, **{(fact, ""): where for fact, where in FACTS.items()}})
    mode = _mode(answers["executor-svc", "info"])
    needed = LINE | {VENUE.name} if mode == "paper" else LINE
    facts = {fact: answers[fact, ""].body if answers[fact, ""].good else None for fact in FACTS}
    services = [
        _service(reach, name, name in needed, {question: answers[name, question] for question in QUESTIONS})
        for name in names
    ]
    if meta := facts[META]:
        services = [_with_quality(row, meta) if row.service == FACTS[META][0] else row for row in services]
    problems = [f"{row.service}: {reason}" for row in services if row.needed for reason in row.reasons]
    problems += [
        f"{service}{path}: {answers[fact, ''].problem or answers[fact, ''].status}"
        for fact, (service, path) in FACTS.items()
        if facts[fact] is None and any(row.service == service and row.live for row in services)
    ]
    return FleetStatus(
        fleet=reach.how,
        mode=mode,
        good=not problems,
        problems=problems,
        services=services,
        meta=facts[META],
        risk=_risk(facts[RISK]),
        positions=_positions(facts[POSITIONS]),
        dead_letters=_dead_letters(facts[STREAMS]),
        alarms=[alarm["text"] for alarm in (facts[STREAMS] or {}).get("alarms", [])],
    )


def _mode(info: Answer) -> str:
    """As the executor says, else as it would be started here; paper needs the paper venue."""
    said = info.body.get("mode") if info.good and isinstance(info.body, dict) else None
    return str(said or os.environ.get("QT_MODE") or "paper")


def _service(reach: Reach, name: str, needed: bool, answers: Mapping[str, Answer]) -> ServiceStatus:
    info = answers["info"].body if answers["info"].good and isinstance(answers["info"].body, dict) else {}
    reasons = _reasons(name, answers, info)
    version, quality = _model(info)
    ours = info.get("service") == name
    return ServiceStatus(
        service=name,
        url=reach.url_of(name),
        needed=needed,
        live=ours and answers["live"].good,
        ready=ours and answers["ready"].good,
        reasons=reasons,
        version=info.get("version") if ours else None,
        instance=info.get("instance") if ours else None,
        model=version,
        quality=quality,
    )


def _reasons(name: str, answers: Mapping[str, Answer], info: Mapping[str, Any]) -> list[str]:
    for answer in answers.values():
        if answer.problem:
            return [answer.problem]
    if info.get("service") != name:
        return [f"{info.get('service') or 'something else'} answers at its address"]
    live, ready = answers["live"], answers["ready"]
    reasons = [] if live.good else [f"not live: {', '.join(_listed(live, 'stuck_loops')) or live.status}"]
    return reasons if ready.good else [*reasons, f"not ready: {', '.join(_listed(ready, 'reasons')) or ready.status}"]


def _listed(answer: Answer, name: str) -> Sequence[str]:
    return list(map(str, answer.body.get(name, ()))) if isinstance(answer.body, dict) else ()


def _model(info: Mapping[str, Any]) -> tuple[str | None, str | None]:
    if isinstance(model := info.get("model"), dict):
        return model["version"], model["quality"]
    return (info.get("models") or {}).get("meta"), None


def _with_quality(row: ServiceStatus, meta: Mapping[str, Any]) -> ServiceStatus:
    return msgspec.structs.replace(row, quality=meta.get("model_quality"))


def _risk(body: dict[str, Any] | None) -> dict[str, Any] | None:
    return {name: body.get(name) for name in RISK_FIELDS} if body else None


def _positions(body: dict[str, Any] | None) -> list[dict[str, Any]] | None:
    if body is None:
        return None
    return [
        {
            "symbol": row["symbol"],
            "side": row["side"],
            "quantity": row["quantity"],
            "entry_price": float(row["entry_notional"]) / float(row["entry_quantity"]),
            "opened_ts_ms": row["opened_ts_ms"],
        }
        for row in body["positions"]
        if float(row["quantity"]) > 0
    ]


def _dead_letters(body: dict[str, Any] | None) -> dict[str, int] | None:
    if body is None or body["looked_at_ms"] is None:  # the recorder has not seen the streams yet
        return None
    return {row["stream"]: row["dead_letters"] for row in body["streams"] if row["dead_letters"]}
