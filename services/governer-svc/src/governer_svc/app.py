"""The risk service on the bus: holds a bar's decisions, allocates them in one commit, keeps the account up to date."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from governer_svc import metrics
from governer_svc.api import router
from governer_svc.checks import Signal
from governer_svc.config import Limit, RiskConfig, TradingState
from governer_svc.core import PositionAllocation, allocate, as_event, flatten_all, log_line
from governer_svc.errors import NotOurBar, StateUnreadable
from governer_svc.executions import Released, take_in_once
from governer_svc.gate import BarGate, Deadlines, SettledBar
from governer_svc.settings import Settings
from governer_svc.state import DAY_MS, LOST, RiskState, change_limits
from governer_svc.store import Change, RiskStore
from governer_svc.view import Mirror, traded_before
from quantum_common.bus import (
    Bus,
    BusUnavailable,
    Consumer,
    Entry,
    Lease,
    Output,
    Received,
    RedisBus,
    Status,
    Unit,
    Watermark,
    run_consumer,
)
from quantum_common.contracts import (
    ALLOCATIONS,
    CONTROL,
    ApprovalExpired,
    DecisionMade,
    Envelope,
    FeaturesComputed,
    Look,
    encode,
    envelope,
)
from quantum_common.domain.timeframe import decision_ts_ms, timeframe_ms
from quantum_common.service import Control, MarketClock, Service, Stop
from quantum_common.service.clock import wall_ms

log = logging.getLogger(__name__)

ACKS_PER_UNIT = 256
LIVE_BLOCK_MS = 50
"""Well below the 250 ms a bar's decisions wait for each other."""
REPLAY_BLOCK_MS = 1000
RETRY_S = 1.0


class RiskService:
    """One account's risk. `clock` is the wall clock: deadlines, and market time where it is live."""

    def __init__(self, settings: Settings, bus: Bus, *, clock: Callable[[], int] = wall_ms) -> None:
        self._settings, self._bus, self._clock = settings, bus, clock
        self._replay = settings.clock == "replay"
        service, keys = settings.service, settings.keys
        self._allocations = keys.stream(ALLOCATIONS)
        self._gate = self._empty_gate()
        self.lease = Lease(bus, keys.lease(service), settings.instance)
        self.consumer = Consumer(bus, keys.subscribed(service), service, settings.instance, lease=self.lease)
        self.store = RiskStore(
            bus,
            keys.account_state(service),
            settings.risk_config,
            self.lease,
            traded_before=lambda: traded_before(settings.mirror_path, settings.account),
            clock=clock,
        )

    async def consume(self, stop: Stop, beat: Callable[[], None]) -> None:
        """The loop of the service."""
        await self._load(stop, beat)
        block_ms = REPLAY_BLOCK_MS if self._replay else LIVE_BLOCK_MS
        await run_consumer(
            self.consumer,
            self.handle,
            stopping=lambda: stop.requested,
            beat=beat,
            block_ms=block_ms,
            on_start=self.start,
        )

    async def start(self) -> None:
        """Forget what is held, since the bus hands it out again; read the state that someone else may have moved."""
        self._gate = self._empty_gate()
        await self.store.reload()
        self._show()

    def _empty_gate(self) -> BarGate:
        return BarGate(None if self._replay else Deadlines())

    async def refresh(self) -> None:
        """For readers: what an instance that waits for the lease has in memory is old."""
        if not self.lease.held:
            await self.store.reload()

    async def on_look(self, look: Look) -> None:
        """An operator changed limits, maybe through another instance."""
        if look.subject == "config":
            await self.store.reload()
            self._show()

    async def _load(self, stop: Stop, beat: Callable[[], None]) -> None:
        """Before the first entry, so that a state nobody can use ends the process with its reason."""
        while not (self.store.loaded or stop.requested):
            beat()
            try:
                await self.store.ensure_loaded()
            except StateUnreadable:
                raise
            except BusUnavailable as error:
                log.warning("the risk state cannot be read, retrying: %s", error)
                await stop.wait(RETRY_S)

    async def handle(self, batch: Sequence[Received]) -> None:
        """Take a batch in, then settle every bar that need not wait any longer. Raises NotOurBar before it does."""
        await self.store.ensure_loaded()
        for received in batch:
            self._require_our_bar(received.event)
        done: list[Entry] = []
        executions: list[Received] = []
        for received in batch:
            payload = received.event.payload
            if isinstance(payload, FeaturesComputed):
                self._gate.add_features(received)
            elif not isinstance(payload, DecisionMade):
                executions.append(received)
            elif received.event.bar_ts_ms > self.store.state.decided_bars.get(received.event.symbol, -1):
                self._gate.add_decision(received, self._clock())
            else:
                done.append(received.entry)  # delivered again after its verdict was committed
        await self._take_executions(executions)
        await self._settle_ready()
        surplus = self._gate.surplus(self._newest_settled_ms)
        await self._acknowledge([*done, *(received.entry for received in surplus)])

    @property
    def _newest_settled_ms(self) -> int:
        return max(self.store.state.decided_bars.values(), default=-1)

    def _require_our_bar(self, event: Envelope[Any]) -> None:
        """A bar of another length, off the grid or far ahead of the clock would stall the bars behind it (F06)."""
        if not isinstance(event.payload, FeaturesComputed | DecisionMade):
            return
        ours, bar_ts_ms = self._settings.timeframe, event.bar_ts_ms
        if event.timeframe != ours:
            raise NotOurBar(f"timeframe {event.timeframe!r} of {event.symbol}: bars here are of {ours}")
        if bar_ts_ms % timeframe_ms(ours) or not 0 <= bar_ts_ms <= self._clock() + DAY_MS:
            raise NotOurBar(f"bar_ts_ms {bar_ts_ms} of {event.symbol} opens no {ours} bar up to now")

    async def _take_executions(self, executions: Sequence[Received]) -> None:
        """One commit for the batch; entry by entry when some of it is no longer ours."""
        if not executions:
            return
        freed: list[Released] = []

        def step(state: RiskState, config: RiskConfig) -> Change:
            freed.clear()
            for received in executions:
                event = received.event
                state, released = take_in_once(state, event.event_id, event.symbol, event.payload)
                freed.extend(released)
            return Change(state, [self._expired(row) for row in freed])

        status = await self.store.commit(step, [received.entry for received in executions])
        if status is Status.OK:
            metrics.APPROVALS_RELEASED.inc(len(freed))
            self._show()
        elif len(executions) > 1:
            for received in executions:
                await self._take_executions([received])

    def _expired(self, released: Released) -> Output:
        held = released.reservation
        event = envelope(
            ApprovalExpired(released.decision_id, held.size_usd),
            producer=self._settings.producer,
            produced_at_ms=self._clock(),
            symbol=held.symbol,
            timeframe=held.timeframe,
            bar_ts_ms=held.bar_ts_ms,
            natural_key=released.decision_id,
        )
        return Output(self._allocations, encode(event))

    async def _settle_ready(self) -> None:
        while True:
            bar = self._gate.ready(self.store.state.account_bar_ts_ms, self._newest_settled_ms, self._clock())
            if bar is None:
                break
            try:
                await self._settle(bar)
            except BusUnavailable:
                raise
            except Exception as error:  # whatever it is, it is this bar's: the others must not wait behind it (F06)
                log.exception("bar %d cannot be settled", bar.bar_ts_ms)
                await self._condemn(bar, f"{type(error).__name__}: {error}")
        metrics.DECISIONS_WAITING.set(self._gate.waiting)

    async def _settle(self, bar: SettledBar) -> None:
        """All verdicts of the bar, their reservations and their watermarks in one commit; then the decisions go."""
        verdicts: list[PositionAllocation] = []
        now_ms = decision_ts_ms(bar.bar_ts_ms, bar.timeframe) if self._replay else self._clock()

        def step(state: RiskState, config: RiskConfig) -> Change:
            signals = [
                Signal(event.event_id, event.symbol, event.payload.action, event.payload.confidence)
                for event in (received.event for received in bar.decisions)
                if bar.bar_ts_ms > state.decided_bars.get(event.symbol, -1)
            ]
            state, made = allocate(
                state, config, signals, bar_ts_ms=bar.bar_ts_ms, timeframe=bar.timeframe, now_ms=now_ms
            )
            verdicts[:] = made
            marks = [
                Watermark(self._allocations, self._settings.service, verdict.symbol, bar.bar_ts_ms) for verdict in made
            ]
            return Change(state, [self._verdict(verdict, bar.bar_ts_ms, bar.timeframe) for verdict in made], marks)

        status = await self.store.commit(step, [received.entry for received in bar.held])
        self._gate.settled(bar.bar_ts_ms)
        if status is Status.OK:
            for verdict in verdicts:
                log.info(log_line(verdict))
                metrics.VERDICTS.labels(verdict.reason).inc()
            self._show()

    async def _condemn(self, bar: SettledBar, reason: str) -> None:
        """Set the bar's decisions aside; its features did nothing wrong and are acknowledged."""
        self._gate.settled(bar.bar_ts_ms)
        decisions = [received for received in bar.held if isinstance(received.event.payload, DecisionMade)]
        for received in decisions:
            await self.consumer.dead_letter(received.entry, reason)
        await self._acknowledge([received.entry for received in bar.held if received not in decisions])

    def _verdict(self, verdict: PositionAllocation, bar_ts_ms: int, timeframe: str) -> Output:
        event = envelope(
            as_event(verdict),
            producer=self._settings.producer,
            produced_at_ms=self._clock(),
            symbol=verdict.symbol,
            timeframe=timeframe,
            bar_ts_ms=bar_ts_ms,
            natural_key=verdict.decision_id,
        )
        return Output(self._allocations, encode(event))

    async def _acknowledge(self, entries: Sequence[Entry]) -> None:
        streams = {entry.stream for entry in entries}
        units = [
            Unit(inputs=part[start : start + ACKS_PER_UNIT])
            for part in ([entry for entry in entries if entry.stream == stream] for stream in sorted(streams))
            for start in range(0, len(part), ACKS_PER_UNIT)
        ]
        if units:
            await self.consumer.commit(units)

    async def change_limits(self, changes: dict[str, Limit], *, who: str, why: str, flatten: bool = False) -> None:
        """An operator's change, in force from the next bar on; `flatten` approves the exit of every open position in
        the same commit. Raises InvalidRiskConfig and changes nothing then.
        """
        await self.store.ensure_loaded()
        at_ms, timeframe = self._clock(), self._settings.timeframe

        def step(state: RiskState, config: RiskConfig) -> Change:
            changed = change_limits(state, changes, who=who, why=why, at_ms=at_ms)
            if not flatten:
                return Change(changed)
            changed, exits = flatten_all(changed, config)
            return Change(changed, [self._verdict(row, changed.account_bar_ts_ms, timeframe) for row in exits])

        await self.store.commit(step)
        log.warning("[GOVERNER] limits changed by %s: %s (%s)%s", who, changes, why, ", flatten" if flatten else "")
        self._show()
        await self._tell(at_ms)

    async def _tell(self, at_ms: int) -> None:
        """Wake the others up; the truth is the plain fields of the state key."""
        look = envelope(
            Look("config"), producer=self._settings.producer, produced_at_ms=at_ms, natural_key=f"config:{at_ms}"
        )
        await self._bus.append(self._settings.keys.stream(CONTROL), encode(look))

    def what_if(self, symbol: str, action: str, confidence: float) -> PositionAllocation:
        """The verdict on an invented decision at the close of the newest bar; nothing is reserved or published."""
        state = self.store.state
        bar_ts_ms = state.account_bar_ts_ms
        now_ms = decision_ts_ms(bar_ts_ms, self._settings.timeframe)
        signal = Signal("what-if", symbol, action, confidence)
        _, (verdict,) = allocate(
            state, self.store.config, [signal], bar_ts_ms=bar_ts_ms, timeframe=self._settings.timeframe, now_ms=now_ms
        )
        return verdict

    def not_ready(self) -> list[str]:
        """An instance that stands by is ready: to take over. What it has in memory may be from before the account."""
        if not self.store.loaded:
            return ["the risk state is not loaded"]
        if self.lease.elsewhere:
            return []
        state = self.store.state
        reasons = [] if state.account else ["no account state from the venue yet"]
        if state.lost_before and self.store.config.trading_state is TradingState.HALTED:
            reasons.append(LOST)
        return reasons

    def _show(self) -> None:
        metrics.show(self.store.state, self.store.config)


def build(settings: Settings, bus: Bus | None = None) -> Service:
    """Wire the service; nothing is connected yet."""
    bus = bus or RedisBus.connect(settings.redis_url.get_secret_value())
    risk = RiskService(settings, bus)
    mirror = Mirror(settings.mirror_path, settings.account, risk.store, risk.lease)
    return Service(
        settings=settings,
        loops={
            "consume": risk.consume,
            "control": Control(bus, MarketClock(settings.clock), risk.on_look).run,
            "mirror": mirror.run,
        },
        routers=[router(risk, settings)],
        bus=bus,
        consumers=[risk.consumer],
        not_ready=risk.not_ready,
        info=lambda: {"works": risk.lease.held},
        closing=[mirror.close, bus.close],
    )
