"""Clients of a server or a cluster, chosen by the URL's scheme. Nothing connects before the first command."""

from __future__ import annotations

from urllib.parse import urlsplit

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from quantum_common.bus.cluster import ClusterClient

DEFAULT_PORT = 6379
SOCKET_TIMEOUT_S = 10.0
CLUSTER_SCHEMES = ("redis+cluster://", "rediss+cluster://")

Client = Redis | ClusterClient


def is_cluster(url: str) -> bool:
    return url.startswith(CLUSTER_SCHEMES)


def connect_client(url: str) -> Client:
    """`redis://…` and `rediss://…` for one server, `redis+cluster://[user:password@]host:port[,host:port…]` and
    `rediss+cluster://…` (TLS) for a cluster, of which any node will do to find the others. ValueError for another URL.
    """
    if not is_cluster(url):
        return connect_server(url)
    parts = urlsplit(url)
    if parts.path not in ("", "/", "/0"):
        raise ValueError("a cluster has no databases: leave the path of the URL empty")
    scheme, query = parts.scheme.removesuffix("+cluster"), f"?{parts.query}" if parts.query else ""
    user, at, hosts = parts.netloc.rpartition("@")

    def connect_node(host: str, port: int) -> Redis:
        name = f"[{host}]" if ":" in host else host
        return connect_server(f"{scheme}://{user}{at}{name}:{port}/0{query}")

    return ClusterClient([_address(host) for host in hosts.split(",")], connect_node)


def _address(host: str) -> tuple[str, int]:
    parts = urlsplit(f"//{host}")
    if not parts.hostname:
        raise ValueError(f"{host!r} is no node of a cluster: give host:port, separated by commas")
    return parts.hostname, parts.port or DEFAULT_PORT


def connect_server(url: str) -> Redis:
    """The client's own retries are off: a lost reply would make it write twice. The kit retries, idempotently."""
    client: Redis = Redis.from_url(
        url,
        decode_responses=False,
        protocol=2,
        socket_timeout=SOCKET_TIMEOUT_S,
        socket_connect_timeout=5.0,
        socket_keepalive=True,
        retry=Retry(NoBackoff(), 0),
    )
    return client
