"""meta-svc on the bus: joins votes per bar, decides, and commits each decision with all its inputs at once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import NamedTuple

from meta_svc import metrics
from meta_svc.api import router
from meta_svc.board import Board, newest_decisions
from meta_svc.core import Outcome
from meta_svc.decide import MetaModel, decide
from meta_svc.events import decision_of, question_of, voted_in, votes_of
from meta_svc.join import Due, Join, Placed
from meta_svc.lines import decision_line
from meta_svc.serving import MetaSlot
from meta_svc.settings import Settings, check_meta_names
from meta_svc.statistics import OVERRIDE_WINDOW, OverrideWatch, WeightWatch, counter_of
from quantum_common.bus import (
    Bus,
    BusUnavailable,
    Consumer,
    Lease,
    Output,
    Received,
    RedisBus,
    Status,
    Unit,
    Watermark,
    commit_together,
    run_consumer,
)
from quantum_common.contracts import DECISIONS, Look, encode, envelope
from quantum_common.models import age_s, described
from quantum_common.service import Control, Loop, MarketClock, Service, Stop, require_token
from quantum_common.service.clock import wall_ms

log = logging.getLogger(__name__)

LIVE_BLOCK_MS = 50
"""How precise a deadline is, and how long a silence tells that the streams are drained."""
REPLAY_BLOCK_MS = 1000
LOOK_FOR_MODELS_S = 3.0
BARS_PER_COMMIT = 64
"""Five inputs a bar, and a unit takes 512; the rest is room for repeats."""


class Decided(NamedTuple):
    due: Due
    outcome: Outcome
    unit: Unit


class MetaApp:
    """The handler of one partition's `features` and `predictions` streams, of which one instance at a time works."""

    def __init__(
        self,
        settings: Settings,
        bus: Bus,
        slot: MetaSlot,
        watch: OverrideWatch | None = None,
        weights: WeightWatch | None = None,
        partition: int = 0,
    ) -> None:
        self._settings, self._bus, self._slot = settings, bus, slot
        self._policy = settings.policy
        self._join = Join(None if settings.clock == "replay" else settings.join_deadline_ms)
        self._watch, self.partition = watch or OverrideWatch(), partition
        self._weights = weights or WeightWatch(settings.weights)
        self._held_bars = metrics.HELD_BARS.labels(str(partition))
        keys = settings.keys
        self._decisions = keys.all_streams(DECISIONS)[partition]
        self._counters = keys.counters(settings.service, partition)
        self.lease = Lease(bus, keys.lease(settings.service, partition), settings.instance)
        self.consumer = Consumer(
            bus,
            keys.subscribed_in(settings.service, partition),
            settings.service,
            settings.instance,
            lease=self.lease,
        )

    async def consume(self, stop: Stop, beat: Callable[[], None]) -> None:
        """The loop of the line."""
        await run_consumer(
            self.consumer,
            self.handle,
            stopping=lambda: stop.requested,
            beat=beat,
            block_ms=REPLAY_BLOCK_MS if self._settings.clock == "replay" else LIVE_BLOCK_MS,
            on_start=self.start,
        )

    async def start(self) -> None:
        """Forget what is held, since the bus hands it out again; learn what has been decided, by whomever."""
        self._join.clear()
        marks = await self._bus.counters(Watermark(self._decisions, self._settings.service, "", 0).key)
        for name, bar_ts_ms in marks.items():
            service, _, symbol = name.partition("|")
            if service == self._settings.service:
                self._join.mark_decided(symbol, bar_ts_ms)
        if not self._watch.recent:
            for event in reversed(await newest_decisions(self._bus, self._settings.keys, OVERRIDE_WINDOW)):
                self._watch.add(event.payload.use_meta)
                self._weights.add(voted_in(event.payload.votes))

    async def handle(self, batch: Sequence[Received]) -> None:
        """Take a batch in, decide every bar that is due. An empty batch means that both streams are drained."""
        await self._set_aside(self._offer(batch))
        await self._decide(self._join.due(wall_ms(), quiet=not batch))
        self._held_bars.set(len(self._join))

    def _offer(self, batch: Iterable[Received]) -> list[Received]:
        """Hold what belongs to an undecided bar; returns the rest."""
        now_ms = wall_ms()
        aside = []
        for received in batch:
            placed = self._join.offer(received, now_ms)
            if placed is not Placed.HELD:
                metrics.SET_ASIDE.labels(placed).inc()
                aside.append(received)
        return aside

    async def _set_aside(self, aside: Sequence[Received]) -> None:
        await self.consumer.commit([Unit(inputs=[received.entry]) for received in aside])

    async def _decide(self, due: Sequence[Due]) -> None:
        decided = await self._decided(due)
        for start in range(0, len(decided), BARS_PER_COMMIT):
            await self._commit(decided[start : start + BARS_PER_COMMIT])

    async def _commit(self, group: Sequence[Decided]) -> None:
        try:
            statuses = await commit_together(self.consumer, [each.unit for each in group])
        except BusUnavailable:
            raise
        except Exception as error:
            if len(group) == 1:
                await self._condemn(group[0].due, error)
                return
            for each in group:
                await self._commit([each])
        else:
            for each, status in zip(group, statuses, strict=True):
                self._settle(each, status)

    async def _decided(self, due: Sequence[Due]) -> list[Decided]:
        """All bars in one batch; when that fails each of them alone, and those that fail alone are set aside (F06)."""
        try:
            return self._answered(due)
        except Exception as error:  # what is wrong with a bar may be anything; its neighbours must not wait for it
            if len(due) == 1:
                await self._condemn(due[0], error)
                return []
        return [decided for each in due for decided in await self._decided([each])]

    async def _condemn(self, due: Due, error: Exception) -> None:
        """The kit never sees this failure as one of an entry: the bar's other entries came in earlier batches."""
        symbol, bar_ts_ms = due.bar.key
        log.error("%s %d cannot be decided", symbol, bar_ts_ms, exc_info=error)
        for received in due.bar.entries:
            await self.consumer.dead_letter(received.entry, f"{type(error).__name__}: {error}")
        self._join.settle(due.bar.key, decided=False)

    def _answered(self, due: Sequence[Due]) -> list[Decided]:
        model = self._slot.model
        outcomes = decide([question_of(each.bar) for each in due], self._policy, model)
        return [
            Decided(each, outcome, self._unit(each, outcome, model))
            for each, outcome in zip(due, outcomes, strict=True)
        ]

    def _unit(self, due: Due, outcome: Outcome, model: MetaModel | None) -> Unit:
        settings, bar = self._settings, due.bar
        symbol, bar_ts_ms = bar.key
        event = envelope(
            decision_of(due, outcome, model, settings.version),
            producer=settings.producer,
            produced_at_ms=wall_ms(),
            symbol=symbol,
            timeframe=bar.timeframe,
            bar_ts_ms=bar_ts_ms,
        )
        return Unit(
            inputs=[received.entry for received in bar.entries],
            watermarks=[Watermark(self._decisions, settings.service, symbol, bar_ts_ms)],
            writes=[("HINCRBY", self._counters, counter_of(outcome.reason), 1)],
            outputs=[Output(self._decisions, encode(event))],
        )

    def _settle(self, each: Decided, status: Status) -> None:
        bar, outcome = each.due.bar, each.outcome
        self._join.settle(bar.key, decided=status in (Status.OK, Status.DUP))
        if status is not Status.OK:
            log.warning("%s %d: decision dropped, commit answered %s", *bar.key, status)
            return
        log.info(decision_line(bar.key.symbol, outcome, self._policy.version))
        self._count(each)
        self._weights.add(voted_in(votes_of(bar)))
        if (warning := self._watch.add(outcome.use_meta)) is not None:
            log.warning(warning)

    def _count(self, each: Decided) -> None:
        metrics.DECISIONS.labels(counter_of(each.outcome.reason)).inc()
        metrics.TRIGGERS.labels(each.due.trigger).inc()
        metrics.REPEATS.inc(len(each.due.bar.repeats))
        if each.outcome.use_meta:
            metrics.OVERRIDES.labels(each.outcome.reason).inc()
        if (features := each.due.bar.features) is not None:
            metrics.JOIN_SECONDS.observe(max(0, wall_ms() - features.event.produced_at_ms) / 1000)


def build(settings: Settings, bus: Bus | None = None) -> Service:
    """Wire the service; nothing is connected or loaded yet."""
    check_meta_names()
    bus = bus or RedisBus.connect(settings.redis_url.get_secret_value())
    slot = MetaSlot(settings.model_dir, settings.policy, settings.timeframe)
    watch, weights, clock = OverrideWatch(), WeightWatch(settings.weights), MarketClock(settings.clock)
    apps = [MetaApp(settings, bus, slot, watch, weights, partition) for partition in range(settings.partitions)]
    metrics.begin()
    metrics.MODEL_AGE_SECONDS.set_function(lambda: _age_s(slot, clock))
    for agent in settings.weights:
        metrics.EFFECTIVE_WEIGHT.labels(agent).set_function(partial(_share, weights, agent))

    async def on_look(look: Look) -> None:
        if look.subject == "models":
            await asyncio.to_thread(slot.look, again=True)

    async def watch_models(stop: Stop, beat: Callable[[], None]) -> None:
        while not stop.requested:
            beat()
            await asyncio.to_thread(slot.look)
            await stop.wait(LOOK_FOR_MODELS_S)

    def consume(app: MetaApp) -> Loop:
        async def loop(stop: Stop, beat: Callable[[], None]) -> None:
            await asyncio.to_thread(slot.look)  # before the first bar: a replay must not defer it for want of a model
            await app.consume(stop, beat)

        return loop

    control = Control(bus, clock, on_look)
    guard = require_token(settings) if settings.reset_stats_needs_token else None
    return Service(
        settings=settings,
        loops={
            **{f"partition {app.partition}": consume(app) for app in apps},
            "control": control.run,
            "models": watch_models,
        },
        routers=[router(Board(settings, bus, slot), guard)],
        bus=bus,
        consumers=[app.consumer for app in apps],
        not_ready=lambda: not_ready(settings, slot),
        info=lambda: {
            "models": {"meta": slot.model.version if slot.model else None},
            "model": described(slot.model.loaded.manifest) if slot.model else None,
            "problem": slot.problem,
            "effective_weights": weights.shares(),
            "works_on": [app.partition for app in apps if app.lease.held],
        },
        closing=[bus.close],
    )


def not_ready(settings: Settings, slot: MetaSlot) -> list[str]:
    """Without a model the base ensemble still decides, unless the meta layer fails closed."""
    blocked = settings.enabled and not settings.fail_open and slot.model is None
    return [f"no meta model, and META_FAIL_OPEN is false: {slot.problem}"] if blocked else []


def _age_s(slot: MetaSlot, clock: MarketClock) -> float:
    return age_s(slot.model.loaded.manifest if slot.model else None, clock.now_ms())


def _share(weights: WeightWatch, agent: str) -> float:
    return weights.shares().get(agent, float("nan"))
