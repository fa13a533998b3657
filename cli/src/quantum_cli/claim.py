"""A cluster that the user brings holds one run: its streams and the state folder belong together."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

from redis.exceptions import RedisError

from quantum_cli.errors import RunFailed, UsageError
from quantum_common.bus import Client

RUN_KEY = "{ctl}:run"
ID_FILE = "run-id"


async def claim_cluster(client: Client, state_dir: Path) -> None:
    """Make the cluster this folder's, or check that it is. UsageError when it is another's, or has lost the run."""
    path = state_dir / ID_FILE
    has_begun = path.exists()
    mine = path.read_text() if has_begun else uuid.uuid4().hex
    redis: Any = client
    try:
        if not has_begun:
            await redis.set(RUN_KEY, mine, nx=True)
        holder = await redis.get(RUN_KEY)
    except (RedisError, OSError) as error:
        raise RunFailed(f"the cluster of QT_REDIS_URL does not answer: {error}") from error
    if holder is None:
        raise UsageError(
            f"the cluster of QT_REDIS_URL does not hold the run of {state_dir} any more: start anew in another "
            "--state-dir"
        )
    if holder.decode() != mine:
        raise UsageError(
            "the cluster of QT_REDIS_URL holds another run: go on with its --state-dir, or empty the cluster "
            "(FLUSHALL on every master)"
        )
    path.write_text(mine)
