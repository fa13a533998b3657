"""The book where it is kept: a versioned state that moves together with the events it caused."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from executor_svc import metrics
from executor_svc.core.book import Book, Draft
from executor_svc.core.states import OrderState
from executor_svc.errors import Superseded
from quantum_common.bus import Bus, BusUnavailable, Entry, Lease, Output, StateWrite, Status, Unit
from quantum_common.contracts import EXECUTIONS, Keys, Producer, encode, envelope
from quantum_common.service.clock import wall_ms

_encoder = msgspec.json.Encoder(decimal_format="string")
_decoder = msgspec.json.Decoder(Book)


class Journal:
    """Crash and restart share one path: whatever is SUBMITTING when the book is loaded may have reached the venue."""

    def __init__(self, bus: Bus, keys: Keys, producer: Producer, lease: Lease) -> None:
        self._bus, self._keys, self._producer, self._lease = bus, keys, producer, lease
        self._key = keys.account_state(producer.service)
        self._stream = keys.stream(EXECUTIONS)
        self._version = -1
        self._unsent: set[str] = set()
        self.loaded_wall_ms = 0
        self.book = Book(account=keys.account)

    @property
    def loaded(self) -> bool:
        return self._version >= 0

    @property
    def version(self) -> int:
        return self._version

    async def load(self) -> None:
        state = await self._bus.state(self._key)
        self.book = Book(account=self._keys.account) if state.data is None else _decoder.decode(state.data)
        self._unsent.clear()
        self.loaded_wall_ms = wall_ms()
        self._version = state.version
        metrics.show(self.book)

    def forget(self) -> None:
        """What is in memory may be old: it is read again before anything else."""
        self._version = -1

    async def require_lease(self) -> None:
        """Before a request that changes something leaves for the venue, and after its timestamp was taken: a successor
        takes over later than this and waits until the venue refuses the request for its age. Raises Superseded."""
        if not await self._lease.still_mine():
            self.forget()
            raise Superseded("another instance works for this account now", lost=False)

    async def trading_state(self) -> str:
        """The governer's, read now (F25); empty where it has written none. Raises BusUnavailable."""
        state = await self._bus.state(self._keys.account_state("governer-svc"))
        return state.fields.get("trading_state", "")

    def take_unsent(self, client_order_id: str) -> bool:
        """True once for an intent that this process wrote and has not tried to send."""
        if client_order_id not in self._unsent:
            return False
        self._unsent.discard(client_order_id)
        return True

    async def commit(self, book: Book, drafts: Sequence[Draft] = (), inputs: Sequence[Entry] = ()) -> None:
        """Write the book, emit its events and acknowledge the inputs, all or nothing.

        Raises Superseded when someone else did it or moved the book on, BusUnavailable when the answer is lost; after
        both the book is read again before anything else.
        """
        if book == self.book and not drafts:
            await self._acknowledge(inputs)
            return
        fields = {"unsettled": book.unsettled, "acknowledged_trade_id": book.acknowledged_trade_id}
        unit = Unit(
            inputs=inputs,
            states=[StateWrite(self._key, self._version, _encoder.encode(book), fields)],
            outputs=[Output(self._stream, self._encoded(draft)) for draft in drafts],
        )
        try:
            status = (await self._bus.commit([self._lease.fence(unit)]))[0]
        except BusUnavailable:
            self.forget()
            raise
        if status is not Status.OK:
            self.forget()
            raise Superseded(f"commit answered {status}: the book is read again", lost=status is Status.LOST)
        new = {key for key, order in book.orders.items() if order.state is OrderState.SUBMITTING}
        self._unsent |= new - set(self.book.orders)
        before, self.book, self._version = self.book, book, self._version + 1
        metrics.count(before, book, drafts)

    async def _acknowledge(self, inputs: Sequence[Entry]) -> None:
        streams = {entry.stream for entry in inputs}  # a bar's features may come from several partitions
        units = [Unit(inputs=[entry for entry in inputs if entry.stream == stream]) for stream in sorted(streams)]
        if units:
            await self._bus.commit([self._lease.fence(unit) for unit in units])

    def resend_allowed(self, client_order_id: str) -> None:
        """The intent was written again: it may be sent once more."""
        self._unsent.add(client_order_id)

    def _encoded(self, draft: Draft) -> bytes:
        return encode(
            envelope(
                draft.payload,
                producer=self._producer,
                produced_at_ms=wall_ms(),
                symbol=draft.symbol,
                timeframe=draft.timeframe,
                bar_ts_ms=draft.bar_ts_ms,
                natural_key=draft.natural_key,
            )
        )
