"""Passwords and tokens as files: each service's own, kept from run to run, and enough to work with a guarded server."""

import stat
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import AuthenticationError
from typer.testing import CliRunner

from quantum_cli.credentials import OWNERS, USERS, USERS_FILE, load_functions, write_credentials
from quantum_cli.errors import UsageError
from quantum_cli.main import app
from quantum_common.bus import BusUnavailable, RedisBus
from quantum_common.bus.users import ADMIN, OPERATOR
from quantum_common.contracts import Keys
from quantum_common.testing import running_server

URL = "redis://{user}:{password}@redis:6379/0"


def files_of(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_each_service_has_an_address_of_its_own_and_only_who_takes_orders_the_token(tmp_path: Path) -> None:
    urls = write_credentials(tmp_path, URL, "paper")
    assert set(urls) == set(USERS)
    assert len(set(urls.values())) == len(urls)
    for user, url in urls.items():
        assert (tmp_path / user / "qt_redis_url").read_text() == url
    holders = {path.parent.name for path in tmp_path.rglob("qt_api_token")}
    assert holders == {"exchange-sim", "meta-svc", "governer-svc", "executor-svc", "trainer-svc", OPERATOR}
    assert len({path.read_text() for path in tmp_path.rglob("qt_api_token")}) == 1


def test_a_second_run_changes_no_secret(tmp_path: Path) -> None:
    write_credentials(tmp_path, URL, "paper")
    before = files_of(tmp_path)
    write_credentials(tmp_path, URL, "paper")
    assert files_of(tmp_path) == before


def test_the_list_of_users_is_written_anew(tmp_path: Path) -> None:
    write_credentials(tmp_path, URL, "paper")
    (tmp_path / USERS_FILE).write_text("user old on nopass ~* +@all\n")
    write_credentials(tmp_path, URL, "paper")
    assert "old" not in (tmp_path / USERS_FILE).read_text()


def test_nobody_else_may_read_a_secret(tmp_path: Path) -> None:
    write_credentials(tmp_path, URL, "paper")
    secret = [path for path in tmp_path.rglob("qt_*") if path.is_file()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in secret} == {0o600}
    assert len(set(OWNERS.values())) == len(OWNERS)


def test_an_address_without_a_place_for_the_user_is_wrong_usage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--redis-url"):
        write_credentials(tmp_path, "redis://redis:6379/0", "paper")


def test_secrets_and_redis_setup_make_a_guarded_server_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner, out = CliRunner(), tmp_path / "secrets"
    assert runner.invoke(app, ["secrets", "--out", str(out)]).exit_code == 0
    with running_server(tmp_path / "server", aclfile=str(out / USERS_FILE)) as url:
        address = url.removeprefix("redis://")
        again = ["secrets", "--out", str(out), "--redis-url", f"redis://{{user}}:{{password}}@{address}"]
        assert runner.invoke(app, again).exit_code == 0
        monkeypatch.setenv("QT_SECRETS_DIR", str(out / ADMIN))
        result = runner.invoke(app, ["redis-setup"])
        assert result.exit_code == 0, result.output


def test_redis_setup_gives_a_server_that_runs_the_rights_of_a_new_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    users = users_of(tmp_path)
    new = users.read_text()
    users.write_text(new.replace("user meta-svc on", "user meta-svc off"))  # what the version before allowed
    with running_server(tmp_path / "server", aclfile=str(users)) as url:
        urls = write_credentials(tmp_path, url.replace("redis://", "redis://{user}:{password}@"), "paper")
        with Redis.from_url(urls["meta-svc"]) as meta:
            with pytest.raises(AuthenticationError):
                meta.ping()
            monkeypatch.setenv("QT_REDIS_URL", urls[ADMIN])
            result = CliRunner().invoke(app, ["redis-setup"])
            assert result.exit_code == 0, result.output
            assert meta.ping()


def test_redis_setup_of_a_server_without_a_list_of_users_loads_the_functions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_server(tmp_path / "server") as url:
        monkeypatch.setenv("QT_REDIS_URL", url)
        result = CliRunner().invoke(app, ["redis-setup"])
        assert result.exit_code == 0, result.output


async def test_without_functions_a_service_says_who_loads_them(tmp_path: Path) -> None:
    with running_server(tmp_path / "server", aclfile=str(users_of(tmp_path))) as url:
        urls = write_credentials(tmp_path, url.replace("redis://", "redis://{user}:{password}@"), "paper")
        bus = RedisBus.connect(urls["meta-svc"])
        try:
            lease = Keys().lease("meta-svc", 0)
            with pytest.raises(BusUnavailable, match="quantum redis-setup"):
                await bus.lease(lease, "1", 1000)
            await load_functions(urls[ADMIN])
            assert await bus.lease(lease, "1", 1000) > 0
        finally:
            await bus.close()


def users_of(folder: Path) -> Path:
    write_credentials(folder, URL, "paper")
    return folder / USERS_FILE
