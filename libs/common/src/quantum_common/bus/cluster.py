"""A client of a cluster: each command goes to the master that has its key's slot, by a plain client of that server.

The library's own cluster client asks a server for the keys of every FCALL and XREADGROUP before it sends them, and
starts a thread and an event loop for each command of a transaction.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal, TypeVar

from redis.commands import AsyncCoreCommands
from redis.crc import key_slot
from redis.exceptions import AskError, ClusterDownError, MovedError, RedisError, ResponseError, TryAgainError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

Address = tuple[str, int]
Command = tuple[tuple[Any, ...], dict[str, Any]]
Node = Any
"""A client of one server, `redis.asyncio.Redis`: its annotations are unions over both protocols."""
T = TypeVar("T")

_ON_EVERY_MASTER = frozenset({"CONFIG", "FLUSHALL", "FUNCTION", "INFO", "PING"})
_KEY_AT = {"FCALL": 3, "XGROUP": 2, "XINFO": 2}
_NOT_DONE = (AskError, ClusterDownError, TryAgainError)
"""Answers of a node that did not execute the command."""


class ClusterNotReady(RedisConnectionError):
    """No node can do it now: a master is down, or a slot is on its way to another. It was not done."""


class ClusterClient(AsyncCoreCommands):
    """The commands of redis-py. A command is sent once, and a second time only when a node sent it elsewhere (MOVED).

    Keyless commands go to every master. A slot that is being moved is not there for as long as that takes.
    """

    _is_async_client: Literal[True] = True
    _event_dispatcher: Any = None  # of the mixin's protocol; nothing here has a use for it

    def __init__(self, addresses: Sequence[Address], connect: Callable[[str, int], Node]) -> None:
        """`addresses`: nodes to ask first; `connect` makes the client of one node."""
        self._first, self._connect = list(addresses), connect
        self._nodes: dict[Address, Node] = {}
        self._asked = list(addresses)
        """Whom to ask for the layout, the most promising first."""
        self._masters: list[Address | None] = []
        """By slot; empty: not known, or out of date."""
        self._layout = asyncio.Lock()

    def execute_command(self, *args: Any, **options: Any) -> Awaitable[Any]:
        key = key_of(args)
        if key is None:
            return self._everywhere(*args, **options)
        return self._at_master(key, lambda node: node.execute_command(*args, **options))

    def pipeline(self, transaction: bool = True) -> ClusterPipeline:
        return ClusterPipeline(self, transaction)

    async def aclose(self) -> None:
        nodes, self._nodes, self._masters = self._nodes, {}, []
        for node in nodes.values():
            await node.aclose()

    async def masters(self) -> list[Node]:
        """A client of every master."""
        slots = await self._known_layout()
        return [self._node(address) for address in dict.fromkeys(slots) if address is not None]

    async def _everywhere(self, *args: Any, **options: Any) -> Any:
        """The first master's reply. Every master is told, whichever fails."""
        masters = await self.masters()
        replies = await asyncio.gather(
            *(node.execute_command(*args, **options) for node in masters), return_exceptions=True
        )
        errors = sorted((reply for reply in replies if isinstance(reply, BaseException)), key=_is_answer)
        if errors:
            if not _is_answer(errors[0]):
                self._masters = []
            raise errors[0]
        return replies[0]

    async def _at_master(self, key: str, call: Callable[[Node], Awaitable[T]]) -> T:
        slot = key_slot(key.encode())
        for is_last in (False, True):
            address = (await self._known_layout())[slot]
            if address is None:
                self._masters = []
                raise ClusterNotReady(f"slot {slot} of {key} has no master")
            try:
                return await call(self._node(address))
            except MovedError as error:
                if is_last:
                    self._masters = []
                    raise ClusterNotReady(f"{type(error).__name__}: {error}") from error
                self._move(slot, (error.host or address[0], error.port))
            except _NOT_DONE as error:
                self._masters = []
                raise ClusterNotReady(f"{type(error).__name__}: {error}") from error
            except (RedisConnectionError, RedisTimeoutError, OSError):
                self._masters = []
                raise
        raise AssertionError("unreachable")

    def _move(self, slot: int, address: Address) -> None:
        if self._masters:
            self._masters[slot] = address

    async def _known_layout(self) -> list[Address | None]:
        if self._masters:
            return self._masters
        async with self._layout:
            if not self._masters:
                self._masters = await self._ask_for_layout()
            return self._masters

    async def _ask_for_layout(self) -> list[Address | None]:
        problem: Exception | None = None
        for asked in tuple(self._asked):
            try:
                rows = await self._node(asked).execute_command("CLUSTER SLOTS")
            except (RedisError, OSError) as error:
                problem = error
                self._asked.remove(asked)
                self._asked.append(asked)
                continue
            slots: list[Address | None] = [None] * 16_384
            found: list[Address] = []
            for first, last, *servers in rows:  # each server is host, port, id, …; the master comes first
                addresses = [(_text(host or asked[0]), int(port)) for host, port, *_ in servers]
                slots[first : last + 1] = addresses[:1] * (last + 1 - first)
                found += addresses
            if found:  # else it belongs to no cluster (any more)
                await self._keep([asked, *found, *self._first])
                return slots
        raise ClusterNotReady(f"no node of the cluster tells its layout: {problem or 'none has slots'}")

    async def _keep(self, addresses: Sequence[Address]) -> None:
        """Forget nodes that have left."""
        self._asked = list(dict.fromkeys(addresses))
        for address in self._nodes.keys() - set(addresses):
            await self._nodes.pop(address).aclose()

    def _node(self, address: Address) -> Node:
        if address not in self._nodes:
            self._nodes[address] = self._connect(*address)
        return self._nodes[address]


class ClusterPipeline(AsyncCoreCommands):
    """Commands sent together: as one transaction in one slot, or each slot's on their own."""

    _is_async_client: Literal[True] = True
    _event_dispatcher: Any = None  # of the mixin's protocol; nothing here has a use for it

    def __init__(self, client: ClusterClient, transaction: bool) -> None:
        self._client, self._transaction = client, transaction
        self._commands: list[Command] = []

    def execute_command(self, *args: Any, **options: Any) -> Any:
        self._commands.append((args, options))
        return self

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Replies in the order of the commands. ValueError for a transaction over several slots."""
        commands, self._commands = self._commands, []
        by_slot: dict[int, list[int]] = {}
        keys = [key_of(args) or "" for args, _ in commands]
        for number, key in enumerate(keys):
            by_slot.setdefault(key_slot(key.encode()), []).append(number)
        if self._transaction and len(by_slot) > 1:
            raise ValueError("a transaction of a cluster has one slot")
        parts = await asyncio.gather(
            *(
                self._client._at_master(keys[numbers[0]], self._part([commands[number] for number in numbers]))
                for numbers in by_slot.values()
            ),
            return_exceptions=True,
        )
        replies: list[Any] = [None] * len(keys)
        for numbers, part in zip(by_slot.values(), parts, strict=True):
            if isinstance(part, BaseException):
                raise part
            for number, reply in zip(numbers, part, strict=True):
                replies[number] = reply
        if raise_on_error:
            for reply in replies:
                if isinstance(reply, Exception):
                    raise reply
        return replies

    def _part(self, commands: Sequence[Command]) -> Callable[[Node], Awaitable[list[Any]]]:
        async def call(node: Node) -> list[Any]:
            pipeline = node.pipeline(transaction=self._transaction)
            for args, options in commands:
                pipeline.execute_command(*args, **options)
            replies: list[Any] = await pipeline.execute(raise_on_error=False)
            refused = [reply for reply in replies if isinstance(reply, _NOT_DONE)]
            if len(refused) == len(replies):
                raise refused[0]
            if refused:  # some were done, so the rest is not for us to send again
                raise ClusterNotReady(f"the slot went elsewhere: {refused[0]}")
            return replies

        return call


def key_of(command: Sequence[Any]) -> str | None:
    """The first key of a command of the kit, which decides where it goes; None: it is for every master."""
    words = [*str(command[0]).split(), *command[1:]]
    name = words[0].upper()
    if name in _ON_EVERY_MASTER:
        return None
    if name in ("XREAD", "XREADGROUP"):
        return _text(words[words.index(b"STREAMS") + 1])  # redis-py's own words are bytes, names of groups are not
    return _text(words[_KEY_AT.get(name, 1)])


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _is_answer(error: BaseException) -> bool:
    return isinstance(error, ResponseError)
