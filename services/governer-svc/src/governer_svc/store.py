"""The risk state on the bus: loaded once, changed only by commits under its version."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from governer_svc.config import RiskConfig, with_overrides
from governer_svc.errors import Contended, InvalidRiskConfig, StateUnreadable
from governer_svc.state import LOST, RiskState, after_loss, decode_state, encode_state
from quantum_common.bus import Bus, BusUnavailable, Entry, Lease, Output, StateWrite, Status, Unit, Watermark

log = logging.getLogger(__name__)

ATTEMPTS = 20


class Change(NamedTuple):
    """What a step wants committed together."""

    state: RiskState
    outputs: Sequence[Output] = ()
    watermarks: Sequence[Watermark] = ()


Step = Callable[[RiskState, RiskConfig], Change]


class RiskStore:
    """Owner of the state in this process. Steps are pure and may run again on a newer state.

    What comes from the line is committed under the lease. An operator's change is not: the emergency stop must work
    through any replica, and the version alone keeps it exact.
    """

    def __init__(
        self,
        bus: Bus,
        key: str,
        base: RiskConfig,
        lease: Lease,
        *,
        traded_before: Callable[[], bool],
        clock: Callable[[], int],
    ) -> None:
        """`traded_before`: whether an earlier process knew a state of this account; asked when the bus has none."""
        self._bus, self._key, self._base, self._lease = bus, key, base, lease
        self._traded_before, self._clock = traded_before, clock
        self._lock = asyncio.Lock()
        self._version: int | None = None
        self._seen = False
        """Whether this process knew a state that stood on the bus."""
        self.state = RiskState()
        self.config = base

    @property
    def loaded(self) -> bool:
        return self._version is not None

    async def ensure_loaded(self) -> None:
        """Read the state, and write it when there is none, so that its plain fields can be read from the start.

        Raises StateUnreadable.
        """
        if not self.loaded:
            await self.reload()

    async def reload(self) -> None:
        """Read the state again: another instance may have changed it, or the server lost it."""
        async with self._lock:
            await self._load()
        if self._version == 0:
            await self.commit(lambda state, config: Change(state))

    async def _load(self) -> None:
        found = await self._bus.state(self._key)
        try:
            self._take(decode_state(found.data) if found.data else await self._first_state(), found.version)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise StateUnreadable(f"{self._key} is no risk state: {error}") from error
        except InvalidRiskConfig as error:
            raise StateUnreadable(f"limits changed at run time ({self._key}) do not fit: {error}") from error

    async def _first_state(self) -> RiskState:
        if not self._seen:
            if self.state.lost_before:  # known already, and not written yet
                return self.state
            if not await asyncio.to_thread(self._traded_before):
                return RiskState()
        log.error("[GOVERNER] HALTED: %s", LOST)
        return after_loss(self._clock())

    def _take(self, state: RiskState, version: int) -> None:
        config = with_overrides(self._base, state.overrides)  # first: without it the state does not count as loaded
        self.state, self.config, self._version = state, config, version
        self._seen = self._seen or version > 0

    async def commit(self, step: Step, inputs: Sequence[Entry] = ()) -> Status:
        """Run the step on the newest state and commit it with its outputs and acknowledgements.

        Returns OK, LOST (somebody else has the inputs) or DUP (the outputs are there). Raises Contended, and
        BusUnavailable: then the outcome is unknown, and the version tells the next step what it was.
        """
        async with self._lock:
            return await self._commit(step, inputs)

    async def _commit(self, step: Step, inputs: Sequence[Entry]) -> Status:
        for _ in range(ATTEMPTS):
            if self._version is None:
                await self._load()
            version = self._version or 0
            change = step(self.state, self.config)
            config = with_overrides(self._base, change.state.overrides)
            write = StateWrite(self._key, version, encode_state(change.state), plain_fields(change.state, config))
            unit = Unit(inputs, [write], change.watermarks, (), change.outputs)
            try:
                status = (await self._bus.commit([self._lease.fence(unit) if inputs else unit]))[0]
            except BusUnavailable:
                self._version = None  # it may have been done: what is known here may be old
                raise
            if status is Status.OK:
                self._take(change.state, version + 1)
                return status
            await self._load()
            if status is not Status.STALE:
                return status
        raise Contended(f"the risk state changed {ATTEMPTS} times under one step")


def plain_fields(state: RiskState, config: RiskConfig) -> dict[str, str | int]:
    """What others read without knowing the state's shape: the kill switch, and how far the account is taken in."""
    return {
        "trading_state": config.effective_state.value,
        "emergency_stop": int(config.emergency_stop),
        "account_bar_ts_ms": state.account_bar_ts_ms,
        "account_sequence": state.account.sequence if state.account else -1,
    }
