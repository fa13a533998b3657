"""What a deployment is asked for, and its plan: champions, fresh bars and decisions, kept in the work folder."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace

import msgspec

from meta_svc.versions import VERSIONS
from quantum_common.candles import read_candles
from quantum_common.domain import AGENTS, DEFAULT_LABEL_THRESHOLD, timeframe_ms
from quantum_common.models import current_version
from quantum_common.models.serving import verify
from quantum_research import ResearchError
from quantum_research.gate import Decision, Judged
from quantum_research.train import TrainRequest

MIN_FRESH_DAYS = 28.0
"""The judge decides nothing on fewer than 10 days. Measured on two weeks of two symbols of 1h bars, a gain of .02 was
within the noise."""
PLAN_FILE = "deploy.json"
METAS = tuple(version.folder for version in VERSIONS.values())
DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class DeployRequest:
    train: TrainRequest
    at_ms: int
    """When the release is said to have happened, UTC ms."""
    shadow_bars: int = 0
    """0: a challenger that wins serves at once."""
    only: tuple[str, ...] = ()
    """Models that may be released; `meta` stands for every meta learner; empty: all."""
    min_fresh_days: float = MIN_FRESH_DAYS
    """The newest days, unknown to champions and challengers alike, on which they meet."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a deployment decided on so far: a second start in the same work folder holds on to it."""

    request: str
    champions: dict[str, str]
    known_to_ms: int | None
    """End of what any champion has seen."""
    to_ms: int
    """Close of the newest bar."""
    test_from_ms: int | None
    """Open time of the first bar that challengers may not see; None: there are too few to compare on."""
    decisions: list[Judged] | None = None


def make_plan(request: DeployRequest) -> Plan:
    """Load every champion as a service would, and find out which bars are new to all of them."""
    train = request.train
    label = (train.timeframe, train.horizon_bars, _threshold(train))
    champions: dict[str, str] = {}
    known_to_ms = 0
    for name in (*AGENTS, *METAS):
        version = current_version(train.models_dir, name)
        if version is None:
            continue
        manifest = verify(train.models_dir, name, version).manifest
        if (manifest.timeframe, manifest.horizon_bars, manifest.label_threshold) != label:
            raise ResearchError(
                f"{name} {version} was trained for {manifest.timeframe} bars, horizon {manifest.horizon_bars} and "
                f"label threshold {manifest.label_threshold}: choose other models, or the options to match"
            )
        champions[name] = version
        known_to_ms = max(known_to_ms, manifest.labels_to_ms)
    known = known_to_ms if champions else None
    to_ms = _end_of_data(train)
    return Plan(
        request=_fingerprint(request),
        champions=champions,
        known_to_ms=known,
        to_ms=to_ms,
        test_from_ms=None if known is None else _test_from_ms(request, known, to_ms),
    )


def _test_from_ms(request: DeployRequest, known_to_ms: int, to_ms: int) -> int | None:
    """The newest days. A day more must be new to the champions, or the challenger would know no more than they do."""
    bar_ms = timeframe_ms(request.train.timeframe)
    from_ms = to_ms - int(request.min_fresh_days * DAY_MS)
    return from_ms - from_ms % bar_ms if from_ms - known_to_ms >= DAY_MS else None


def _threshold(train: TrainRequest) -> float:
    default = DEFAULT_LABEL_THRESHOLD[train.timeframe]
    return default if train.label_threshold is None else train.label_threshold


def _end_of_data(train: TrainRequest) -> int:
    """Close of the newest bar that may be used."""
    newest = 0
    for symbol in train.symbols:
        known = read_candles(train.data_dir, train.venue, symbol, train.timeframe).between(None, train.to_ms)
        newest = max(newest, int(known.ts[-1]) if len(known.ts) else 0)
    return newest + timeframe_ms(train.timeframe)


def described(plan: Plan) -> str:
    if not plan.champions:
        return "none serves yet"
    return ", ".join(f"{agent} {version}" for agent, version in plan.champions.items())


def is_complete(plan: Plan) -> bool:
    """Whether every agent and some meta learner serve, so that nothing is needed at any price."""
    return all(name in plan.champions for name in AGENTS) and any(name in plan.champions for name in METAS)


def undecided_rows(plan: Plan) -> list[Judged]:
    days = (plan.to_ms - (plan.known_to_ms or 0)) / DAY_MS
    reason = f"only {max(days, 0.0):.1f} days of bars came after what the champions know"
    return [Judged(agent, version, Decision.UNDECIDED, reason) for agent, version in plan.champions.items()]


def kept_plan(request: DeployRequest) -> Plan | None:
    if request.train.work_dir is None:
        return None
    path = request.train.work_dir / PLAN_FILE
    try:
        plan = msgspec.json.decode(path.read_bytes(), type=Plan)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        raise ResearchError(f"{path}: {error}; remove the work folder to begin anew") from error
    if plan.request != _fingerprint(request):
        raise ResearchError(
            f"{request.train.work_dir} holds another deployment: choose another --work-dir or remove it"
        )
    return plan


def _fingerprint(request: DeployRequest) -> str:
    return hashlib.sha256(repr(replace(request, at_ms=0)).encode()).hexdigest()[:16]


def keep(request: DeployRequest, plan: Plan) -> None:
    if request.train.work_dir is None:
        return
    request.train.work_dir.mkdir(parents=True, exist_ok=True)
    draft = request.train.work_dir / f".{PLAN_FILE}.draft"
    draft.write_bytes(msgspec.json.encode(plan))
    os.replace(draft, request.train.work_dir / PLAN_FILE)
