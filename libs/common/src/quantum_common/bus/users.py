"""Users of the server, one a service, with the rights that the stream registry gives it and no others.

A user may read and acknowledge what its service consumes, append to what it produces, and write its own state. Rights
are ACL selectors (Redis ≥ 7): commands and the keys they may name. What a function calls is checked in the same way,
so the right to call the commit does not widen what it may write.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from quantum_common.contracts.streams import CONTROL, CONTROL_STREAM, DEAD_SUFFIX, PER_ACCOUNT, REGISTRY, StreamSpec

OPERATOR = "quantum"
"""People and the commands `quantum …`: all data, no say over the server itself."""
HEALTH = "health"
"""Has no password."""
ADMIN = "admin"
"""Loads functions; everything else that the others may not."""

_PARTITION = "{p??}"
_LOOK = "+ping +info +config|get +time +multi +exec"
_CONSUME = "+xreadgroup +xack +xautoclaim +xpending +xgroup|create +xgroup|delconsumer +xinfo|consumers"
_READ = "+xread +xrange +xrevrange +xlen +xinfo|stream +xinfo|groups +xpending"
_STATE = "+hget +hmget +hgetall +hset +hincrby +del"


def acl_file(passwords: Mapping[str, str], account: str) -> str:
    """Text of an `aclfile`: a line per user. Passwords stand in it as SHA-256 only.

    Nobody can be the default user, but it may do everything: servers read their append-only file back as that user, and
    a commit that it may not make is lost at the restart (redis/redis issue 14541, valkey-io/valkey issue 3983).
    `health` can ask whether the server answers, and nothing else.
    """
    lines = [
        "user default off resetpass ~* &* +@all",
        f"user {HEALTH} on nopass resetkeys resetchannels -@all +ping",
    ]
    lines += [_line(user, password, rights(user, account)) for user, password in sorted(passwords.items())]
    return "\n".join(lines) + "\n"


def _line(user: str, password: str, granted: str) -> str:
    return f"user {user} on #{hashlib.sha256(password.encode()).hexdigest()} resetkeys resetchannels -@all {granted}"


def rights(user: str, account: str) -> str:
    """What a user may do, in the words of ACL SETUSER."""
    if user == ADMIN:
        return "~* &* +@all"
    if user == OPERATOR:
        return f"~* {_LOOK} +@read +@write +@stream +fcall -flushall -flushdb -swapdb"
    consumed = [spec for spec in REGISTRY if user in spec.consumers]
    produced = [spec for spec in REGISTRY if user in spec.producers]
    letters = [_stream(spec, account) + DEAD_SUFFIX for spec in (consumed or produced)]
    read = [_stream(spec, account) for spec in consumed]
    written = [*(_stream(spec, account) for spec in produced), *letters]
    own = [
        *(
            f"{tag}:{family}:{user}*"
            for tag in (_PARTITION, _tag(account))
            for family in ("state", "counters", "lease")
        ),
        *(f"{_tag_of(spec, account)}:watermark:{spec.name}" for spec in produced),
    ]
    selectors: list[tuple[str, Sequence[str]]] = [
        ("+fcall", [*read, *written, *own, *_more_keys(user, account)]),
        (_CONSUME, read),
        ("+xadd", written),
        (_STATE, own),
        (_READ, [f"%R~{name}" for name in (CONTROL_STREAM, *read, *written)]),
        *_more(user, account),
    ]
    return " ".join([_LOOK, *(_selector(commands, keys) for commands, keys in selectors if keys)])


def _more(user: str, account: str) -> list[tuple[str, Sequence[str]]]:
    """Rights beside the streams: who reads another's key, and who looks after all of them."""
    every = [name for spec in REGISTRY for name in (_stream(spec, account), _stream(spec, account) + DEAD_SUFFIX)]
    windows = f"{_PARTITION}:window:*"
    if user.endswith("-agent"):
        return [("+zrange", [f"%R~{windows}"])]
    beside: dict[str, list[tuple[str, Sequence[str]]]] = {
        "feature-svc": [("+zadd +zremrangebyrank +zremrangebyscore +zrange", [windows]), (_STATE, _progress())],
        "executor-svc": [("+hgetall", [f"%R~{_tag(account)}:state:governer-svc"])],
        "recorder-svc": [("+xtrim +xdel", every), (_READ, [f"%R~{name}" for name in every])],
        "trainer-svc": [(_READ, [f"%R~{name}" for name in every])],
        "monitor-svc": [(_READ, [f"%R~{name}" for name in every])],
    }
    return beside.get(user, [])


def _more_keys(user: str, account: str) -> list[str]:
    """Keys of `_more` that its commits name."""
    if user == "feature-svc":
        return [f"{_PARTITION}:window:*", *_progress()]
    if user == "recorder-svc":
        return [_stream(spec, account) + DEAD_SUFFIX for spec in REGISTRY]
    return []


def _progress() -> list[str]:
    return [f"{_PARTITION}:progress:feature-svc"]


def _selector(commands: str, keys: Sequence[str]) -> str:
    patterns = dict.fromkeys(key if key.startswith("%") else f"~{key}" for key in keys)
    return f"({commands} {' '.join(patterns)})"


def _stream(spec: StreamSpec, account: str) -> str:
    return CONTROL_STREAM if spec is CONTROL else f"{_tag_of(spec, account)}:{spec.name}"


def _tag_of(spec: StreamSpec, account: str) -> str:
    return _tag(account) if spec in PER_ACCOUNT else "{ctl}" if spec is CONTROL else _PARTITION


def _tag(account: str) -> str:
    return f"{{{account}}}"
