"""The bus kit: consume, decide and emit exactly once on Redis Streams."""

from quantum_common.bus.client import Client, connect_client, is_cluster
from quantum_common.bus.consumer import Consumer, DeadLetter, Received, commit_together, run_consumer
from quantum_common.bus.lease import Lease
from quantum_common.bus.memory import MemoryBus
from quantum_common.bus.port import (
    Bus,
    BusUnavailable,
    Entry,
    Fence,
    GroupInfo,
    Output,
    ServerFull,
    State,
    StateWrite,
    Status,
    StreamInfo,
    Unit,
    Watermark,
)
from quantum_common.bus.redis_bus import RedisBus

__all__ = [
    "Bus",
    "BusUnavailable",
    "Client",
    "Consumer",
    "DeadLetter",
    "Entry",
    "Fence",
    "GroupInfo",
    "Lease",
    "MemoryBus",
    "Output",
    "Received",
    "RedisBus",
    "ServerFull",
    "State",
    "StateWrite",
    "Status",
    "StreamInfo",
    "Unit",
    "Watermark",
    "commit_together",
    "connect_client",
    "is_cluster",
    "run_consumer",
]
