"""Passwords and tokens of a fleet as files: a folder per service, holding its secret settings and nothing of another's.

A service reads its folder through QT_SECRETS_DIR. What a folder has already is kept, so that a second run changes no
password; the server's list of users is written anew each time, because a new version may need other rights.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from contextlib import aclosing
from pathlib import Path
from urllib.parse import urlsplit

from redis.exceptions import ResponseError

from quantum_cli.errors import RunFailed, UsageError
from quantum_common.bus import RedisBus, connect_client
from quantum_common.bus.users import ADMIN, OPERATOR, acl_file
from quantum_common.domain import SERVICE_PORTS

URL_FILE, TOKEN_FILE = "qt_redis_url", "qt_api_token"
USERS_FILE = Path("redis/users.acl")
WITHOUT_BUS = "exchange-sim"
TAKES_ORDERS = (WITHOUT_BUS, "meta-svc", "governer-svc", "executor-svc", "trainer-svc", OPERATOR)
"""Who checks or sends the token of mutations."""
USERS = (*(service for service in SERVICE_PORTS if service != WITHOUT_BUS), OPERATOR, ADMIN)
OWNERS = {**SERVICE_PORTS, OPERATOR: 8000, ADMIN: 7999}
"""User id in the containers: of a service the number of its port, so that none can read another's folder."""


def write_credentials(
    out: Path, redis_url: str, account: str, *, token: str | None = None, own: bool = False
) -> Mapping[str, str]:
    """Write every service's folder and the server's list of users; the URL of each user.

    `redis_url` holds `{user}` and `{password}`. `own` gives each folder to its container's user, which takes root.
    """
    if "{user}" not in redis_url or "{password}" not in redis_url:
        raise UsageError(
            f"--redis-url {redis_url!r}: say where they stand, as in redis://{{user}}:{{password}}@redis:6379/0"
        )
    passwords = {user: _kept_password(out / user) or secrets.token_urlsafe(24) for user in USERS}
    urls = {user: redis_url.format(user=user, password=password) for user, password in passwords.items()}
    token = token or _kept(out / OPERATOR / TOKEN_FILE) or secrets.token_urlsafe(24)
    for user, url in urls.items():
        _write(out / user / URL_FILE, url, own)
    for name in TAKES_ORDERS:
        _write(out / name / TOKEN_FILE, token, own)
    users = out / USERS_FILE
    users.parent.mkdir(parents=True, exist_ok=True)
    users.write_text(acl_file(passwords, account))  # hashes of random passwords: no secret
    return urls


async def load_functions(admin_url: str) -> None:
    """Have the server know the functions of this version, which the services' users may call and not load."""
    bus = RedisBus.connect(admin_url)
    try:
        await bus.load_functions()
    finally:
        await bus.close()


async def load_users(admin_url: str) -> None:
    """Have a server that runs read its list of users again: another version may need other rights.

    Nothing happens where the server has no such file. Raises RunFailed when it refuses the list.
    """
    async with aclosing(connect_client(admin_url)) as client:
        try:
            await client.execute_command("ACL", "LOAD")
        except ResponseError as error:
            if "not configured to use an ACL file" not in str(error):
                raise RunFailed(f"the server refuses its list of users: {error}") from error


def _write(path: Path, value: str, own: bool) -> None:
    """Never readable by others, not even while it is written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft")
    draft.unlink(missing_ok=True)
    draft.touch(mode=0o600)
    draft.write_text(value)
    if own:
        os.chown(draft, OWNERS[path.parent.name], -1)
    draft.replace(path)


def _kept(path: Path) -> str | None:
    return path.read_text() if path.exists() else None


def _kept_password(folder: Path) -> str | None:
    url = _kept(folder / URL_FILE)
    return urlsplit(url).password if url else None
