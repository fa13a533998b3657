"""The schedule of faults: a pure function of the seed, the number of bars and how many rounds of faults they get."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from chaos.poison import POISONED_STREAMS, kinds_for
from quantum_cli.fleet import FLEET, VENUE, FleetMember

SERVER = "server"
LEASED = ("feature-svc", "meta-svc", "governer-svc", "executor-svc")
"""As a target the name means the instance that works at that moment, and with `-2` the one that stands by."""
SECOND = tuple(
    FleetMember(f"{member.name}-2", member.module, member.port + 100)
    for member in FLEET
    if member.name in (*LEASED, "xgb-agent")
)
"""Second instances: of the services that work under a lease, and of an agent, which shares its group."""
SERVICES = tuple(member.name for member in (VENUE, *FLEET, *SECOND))
SERVER_LINKS = tuple(f"{member.name}>server" for member in (*FLEET, *SECOND))
VENUE_LINKS = ("feature-svc>venue", "executor-svc>venue")
STAGES = ("features", "predictions", "decisions", "allocations", "executions")
ORDER = "order"
"""Stage: a request of the executor that changes something is on its way to the venue."""
BUSY = ("503 Service Unavailable", "429 Too Many Requests", "418 I'm a teapot", "502 Bad Gateway")
NEAR_ORDERS = ("executor-svc", "exchange-sim", "executor-svc>venue", "executor-svc>server")

FIRST_BAR = 2
QUIET_BARS = 6
"""Bars without a new fault at the end: the last one must find everything settled."""
SHORTEST_PAUSE_MS, LONGEST_PAUSE_MS = 200, 6_000
LONGEST_OFFSET_MS = 120
"""About as long as the line needs for a bar."""
PER_ROUND = 2
"""Processes that a round of the pass in turn hits together."""


class Fault(msgspec.Struct, frozen=True, order=True):
    """What happens once `bar` bars are settled, then an entry or request of `stage` came, and `after_ms` passed."""

    bar: int
    number: int
    kind: str
    """kill, pause, redeploy, slow_disk, cut, half_open, lost_replies, busy or poison."""
    target: str
    """A service, the server, a link `service>server`, or the stream to poison."""
    stage: str = ""
    """Empty: do not wait for a stage."""
    after_ms: int = 0
    for_ms: int = 0
    detail: str = ""
    """Kind of poison, or what a busy venue answers."""


def schedule(seed: int, bars: int, rate: float = 1.0) -> list[Fault]:
    """All faults of a run, by bar. `rate` multiplies the faults drawn at random, not the pass over every service."""
    rng = random.Random(f"chaos {seed}")
    last = bars - QUIET_BARS
    if last < FIRST_BAR + 10:
        raise ValueError(f"{bars} bars are too few for a fault run")
    drafts = [*_in_turn(rng, last), *_at_random(rng, last, rate), *_poison(rng, last)]
    drafts.sort(key=lambda fault: fault.bar)
    return [msgspec.structs.replace(fault, number=number) for number, fault in enumerate(drafts)]


def write_schedule(path: Path, faults: Sequence[Fault]) -> None:
    """One JSON line per fault."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(msgspec.json.encode(fault) + b"\n" for fault in faults))


def _in_turn(rng: random.Random, last: int) -> Iterable[Fault]:
    """Every service killed, paused and redeployed once, the server killed twice, in a shuffled order."""
    hits = [(kind, name) for kind in ("kill", "pause", "redeploy") for name in SERVICES]
    hits += [("kill", SERVER), ("kill", SERVER), ("pause", SERVER)]
    rng.shuffle(hits)
    rounds = -(-len(hits) // PER_ROUND)
    for number, (kind, name) in enumerate(hits):
        bar = FIRST_BAR + (number // PER_ROUND) * (last - FIRST_BAR) // rounds
        yield _process_fault(rng, bar, kind, name)


def _at_random(rng: random.Random, last: int, rate: float) -> Iterable[Fault]:
    def some(count: int) -> Iterable[int]:
        return (rng.randint(FIRST_BAR, last) for _ in range(round(count * rate)))

    for bar in some(8):
        yield _process_fault(rng, bar, rng.choice(("kill", "pause")), rng.choice(("executor-svc", VENUE.name)))
    for bar in some(8):
        yield _process_fault(rng, bar, rng.choice(("kill", "kill", "pause")), rng.choice(SERVICES))
    for bar in some(4):
        yield _fault(rng, bar, "slow_disk", SERVER, for_ms=rng.randint(500, 3_000))
    for bar in some(25):
        yield _fault(rng, bar, "cut", rng.choice(SERVER_LINKS + VENUE_LINKS))
    for bar in some(12):
        kind = rng.choice(("half_open", "lost_replies"))
        yield _fault(rng, bar, kind, rng.choice(SERVER_LINKS), for_ms=rng.randint(50, 2_500))
    for bar in some(12):
        kind = rng.choice(("half_open", "lost_replies", "lost_replies"))
        yield _fault(rng, bar, kind, rng.choice(VENUE_LINKS), for_ms=rng.randint(50, 1_500))
    for bar in some(6):
        yield _fault(rng, bar, "busy", rng.choice(VENUE_LINKS), for_ms=rng.randint(50, 1_500), detail=rng.choice(BUSY))


def _poison(rng: random.Random, last: int) -> Iterable[Fault]:
    """Every kind on every stream once."""
    for stream, kind in itertools.chain.from_iterable(
        ((name, kind) for kind in kinds_for(name)) for name in POISONED_STREAMS
    ):
        yield _fault(rng, rng.randint(FIRST_BAR, last), "poison", stream, detail=kind)


def _process_fault(rng: random.Random, bar: int, kind: str, target: str) -> Fault:
    for_ms = rng.randint(SHORTEST_PAUSE_MS, LONGEST_PAUSE_MS) if kind == "pause" else 0
    return _fault(rng, bar, kind, target, for_ms=for_ms)


def _fault(rng: random.Random, bar: int, kind: str, target: str, *, for_ms: int = 0, detail: str = "") -> Fault:
    stage = rng.choice((ORDER, rng.choice(STAGES))) if target in NEAR_ORDERS else rng.choice(("", *STAGES))
    after_ms = rng.randint(0, 5 if stage == ORDER else 15 if stage else LONGEST_OFFSET_MS)
    return Fault(bar, 0, kind, target, stage, after_ms, for_ms, detail)
