"""trainer-svc wired: the watch over the models, and the trainings it asks for."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from quantum_common.bus import Bus, RedisBus
from quantum_common.service import Control, MarketClock, Service
from trainer_svc.api import router
from trainer_svc.release_watch import Judge
from trainer_svc.renewal import Renewal
from trainer_svc.settings import Settings
from trainer_svc.trainings import Command, Trainings, deploy_command
from trainer_svc.watch import StreamWatch


def judge_of_releases(
    champion: NDArray[np.float64],
    challenger: NDArray[np.float64],
    labels: NDArray[np.int8],
    changes: NDArray[np.float64],
    ts_ms: NDArray[np.int64],
) -> tuple[Literal["challenger", "champion", "undecided"], str]:
    """The judge of `quantum deploy`, imported when it is needed: an idle trainer stays small."""
    from quantum_research.gate import FEE_BPS, in_words
    from quantum_research.release import judge

    verdict = judge(champion, challenger, labels, changes, ts_ms, fee_bps=FEE_BPS)
    return verdict.winner, in_words(verdict)


def build(
    settings: Settings,
    bus: Bus | None = None,
    *,
    command: Command = deploy_command,
    judge: Judge = judge_of_releases,
    clock: MarketClock | None = None,
) -> Service:
    """Wire the service; nothing is connected yet."""
    bus = bus or RedisBus.connect(settings.redis_url.get_secret_value())
    clock = clock or MarketClock(settings.clock)
    trainings = Trainings(settings, clock.now_ms, command)
    watch = StreamWatch(settings, bus)
    renewal = Renewal(settings, bus, clock, trainings, watch, judge)

    def info() -> dict[str, Any]:
        running = trainings.running
        return {"training": running.run_id if running else None, **renewal.document()}

    return Service(
        settings=settings,
        loops={"renewal": renewal.run, "trainings": trainings.run, "control": Control(bus, clock).run},
        routers=[router(settings, trainings, renewal)],
        bus=bus,
        not_ready=renewal.not_ready,
        info=info,
        closing=[bus.close],
    )
