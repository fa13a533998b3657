"""A lease: of several instances of a service one does the work, and another goes on when it stops or hangs.

What an owner commits carries its fencing token, so one whose lease was taken over writes nothing any more. States,
pending checks and watermarks would refuse it too: the lease saves doing work twice, and guards what leaves the bus.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

from quantum_common.bus.metrics import LEASE_HELD, LEASES_TAKEN, partition_of
from quantum_common.bus.port import Bus, BusUnavailable, Fence, Unit, tag_of

log = logging.getLogger(__name__)

TTL_MS = 2_000
RENEW_EVERY_S = 0.25
"""Renewing, and looking whether it is free: a takeover comes at most TTL_MS and this after the owner's last renewal."""


class Lease:
    """One process's claim to a lease. `keep` holds it while the work goes on; `fence` puts it on what is committed."""

    def __init__(self, bus: Bus, key: str, instance: str, *, ttl_ms: int | None = None) -> None:
        self._bus, self.key, self._ttl_ms = bus, key, ttl_ms or TTL_MS
        self._owner = f"{instance}:{uuid.uuid4().hex}"
        """Of this process: a restarted instance is another owner than the one that was killed, or hangs."""
        self._until = 0.0
        self._asked = self._ending = False
        self.token = 0
        self._gauge = LEASE_HELD.labels(partition_of(key))
        self._taken = LEASES_TAKEN.labels(partition_of(key))

    @property
    def elsewhere(self) -> bool:
        """Another instance does the work; this one stands by."""
        return self._asked and not self.token

    @property
    def held(self) -> bool:
        """As far as this process can know: only the server's word at the commit counts."""
        return self.token > 0 and time.monotonic() < self._until

    def fence(self, unit: Unit) -> Unit:
        """The unit under this lease. One that writes elsewhere than in the lease's slot is guarded by its inputs."""
        return replace(unit, fence=Fence(self.key, self.token)) if unit.slot == tag_of(self.key) else unit

    async def renew(self) -> bool:
        """Ask the server now: take it, prolong it, or learn that it is another's. BusUnavailable passes through."""
        asked = time.monotonic()
        token = await self._bus.lease(self.key, self._owner, self._ttl_ms)
        if token and token != self.token:
            log.info("lease %s taken, token %d", self.key, token)
            self._taken.inc()
        elif self.token and not token:
            log.warning("lease %s lost to another instance", self.key)
        self.token, self._until, self._asked = token, asked + self._ttl_ms / 1000, True
        return self.held

    async def still_mine(self) -> bool:
        """The server's word, for what leaves the bus: whoever takes it over later knows that this was asked before."""
        return await self._bus.lease_token(self.key) == self.token

    @contextlib.asynccontextmanager
    async def keep(self, stopping: Callable[[], bool]) -> AsyncIterator[None]:
        """Renew in the background, also while the work awaits something long; give it back at the end."""
        self._ending = False
        try:
            async with asyncio.TaskGroup() as tasks:
                keeping = tasks.create_task(self._keep(stopping), name=f"lease {self.key}")
                try:
                    yield
                finally:
                    self._ending = True  # the client sometimes swallows a cancellation
                    keeping.cancel()
        finally:
            await self._give_back()

    async def _keep(self, stopping: Callable[[], bool]) -> None:
        while not self._ending and (self.held or not stopping()):  # a stopping instance takes nothing new
            with contextlib.suppress(BusUnavailable):
                await self.renew()
            self._gauge.set(self.held)  # also while the server does not answer
            await asyncio.sleep(RENEW_EVERY_S)

    async def _give_back(self) -> None:
        self._until = 0.0
        self._gauge.set(0)
        with contextlib.suppress(BusUnavailable):
            await self._bus.lease(self.key, self._owner, 0)
