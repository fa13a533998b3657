"""The stream registry: every name on the bus, what travels on it, who writes and who reads it.

`{pNN}` (partition of the symbol) and `{account}` are hash tags, so that all keys that one commit touches live in one
cluster slot.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StreamSpec:
    """One row of the registry. `consumers` are the services that register a group (and hold back trimming)."""

    name: str
    kinds: tuple[str, ...]
    producers: tuple[str, ...]
    consumers: tuple[str, ...]


AGENT_NAMES = ("xgb-agent", "lgbm-agent", "patchtst-agent", "nhits-agent")

FEATURES = StreamSpec(
    "features",
    ("FeaturesComputed",),
    ("feature-svc",),
    (*AGENT_NAMES, "meta-svc", "governer-svc", "executor-svc", "recorder-svc"),
)
PREDICTIONS = StreamSpec(
    "predictions", ("PredictionMade", "PredictionAbstained"), AGENT_NAMES, ("meta-svc", "recorder-svc")
)
DECISIONS = StreamSpec("decisions", ("DecisionMade",), ("meta-svc",), ("governer-svc", "recorder-svc"))
ALLOCATIONS = StreamSpec(
    "allocations",
    ("PositionApproved", "PositionRejected", "ApprovalExpired"),
    ("governer-svc",),
    ("executor-svc", "recorder-svc"),
)
EXECUTIONS = StreamSpec(
    "executions",
    (
        "OrderSubmitted",
        "OrderAccepted",
        "OrderFilled",
        "OrderCanceled",
        "OrderRejected",
        "TradeClosed",
        "FundingPaid",
        "AccountUpdated",
        "PositionDrifted",
    ),
    ("executor-svc",),
    ("governer-svc", "recorder-svc"),
)
CONTROL = StreamSpec("control", ("Look",), ("quantum", "governer-svc", "trainer-svc"), ())
"""Read by every instance without a group."""

REGISTRY: tuple[StreamSpec, ...] = (FEATURES, PREDICTIONS, DECISIONS, ALLOCATIONS, EXECUTIONS, CONTROL)
PARTITIONED = (FEATURES, PREDICTIONS, DECISIONS)
PER_ACCOUNT = (ALLOCATIONS, EXECUTIONS)

_KINDS = {spec.name: spec.kinds for spec in REGISTRY}

CONTROL_STREAM = "{ctl}:control"
DEAD_SUFFIX = ":dead"


def partition_of(symbol: str, partitions: int) -> int:
    return zlib.crc32(symbol.encode()) % partitions


def partition_tag(partition: int) -> str:
    return f"{{p{partition:02d}}}"


@dataclass(frozen=True, slots=True)
class Keys:
    """Names of streams and keys for one cluster layout (`partitions`, fixed when it is created) and account."""

    partitions: int = 1
    account: str = "paper"

    def tag(self, symbol: str) -> str:
        return partition_tag(partition_of(symbol, self.partitions))

    @property
    def account_tag(self) -> str:
        return f"{{{self.account}}}"

    def stream(self, spec: StreamSpec, symbol: str = "") -> str:
        """The stream of a symbol (partitioned) or of the account."""
        if spec is CONTROL:
            return CONTROL_STREAM
        tag = self.account_tag if spec in PER_ACCOUNT else self.tag(symbol)
        return f"{tag}:{spec.name}"

    def all_streams(self, spec: StreamSpec) -> list[str]:
        """Every partition's stream of this kind."""
        if spec not in PARTITIONED:
            return [self.stream(spec)]
        return [f"{partition_tag(number)}:{spec.name}" for number in range(self.partitions)]

    def subscribed(self, service: str) -> list[str]:
        """Streams on which this service has a consumer group."""
        return [name for spec in REGISTRY if service in spec.consumers for name in self.all_streams(spec)]

    def subscribed_in(self, service: str, partition: int) -> list[str]:
        """Those of one partition."""
        return [name for name in self.subscribed(service) if name.startswith(f"{partition_tag(partition)}:")]

    def lease(self, service: str, partition: int | None = None) -> str:
        """Hash of who does the work of a service for a partition, or (None) for the account."""
        tag = self.account_tag if partition is None else partition_tag(partition)
        return f"{tag}:lease:{service}"

    def window(self, symbol: str, timeframe: str) -> str:
        """Sorted set by bar time of the last 512 packed vectors."""
        return f"{self.tag(symbol)}:window:{symbol}:{timeframe}"

    def state(self, service: str, symbol: str) -> str:
        """Versioned state hash of a service for one symbol."""
        return f"{self.tag(symbol)}:state:{service}:{symbol}"

    def account_state(self, service: str) -> str:
        """Versioned state hash of a service for the account."""
        return f"{self.account_tag}:state:{service}"

    def features_progress(self) -> str:
        """Hash of feature-svc: `looked_ms`, up to which every symbol is done; `published`, how many had that bar."""
        return f"{partition_tag(0)}:progress:feature-svc"

    def counters(self, service: str, partition: int = 0) -> str:
        """Hash of integer counters that commits increment."""
        return f"{partition_tag(partition)}:counters:{service}"


def kinds_of(stream: str) -> tuple[str, ...]:
    """Event kinds that may stand on a stream. KeyError for a stream that the registry does not know (F05)."""
    return _KINDS[stream.partition("}:")[2]]


def dead(stream: str) -> str:
    return stream + DEAD_SUFFIX
