"""Every service reaches what the registry gives it, and nothing else, on a real server with its list of users."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from redis.exceptions import AuthenticationError, NoPermissionError

from quantum_common.bus import BusUnavailable, Entry, Output, RedisBus, StateWrite, Status, Unit, Watermark
from quantum_common.bus.users import ADMIN, HEALTH, OPERATOR, acl_file
from quantum_common.contracts.streams import (
    CONTROL,
    CONTROL_STREAM,
    DECISIONS,
    FEATURES,
    REGISTRY,
    Keys,
    StreamSpec,
    dead,
)
from quantum_common.domain import SERVICE_PORTS
from quantum_common.testing import running_server

KEYS = Keys(partitions=2, account="paper")
SERVICES = [name for name in SERVICE_PORTS if name != "exchange-sim"]
OF_THE_LINE = [name for name in SERVICES if any(name in (*spec.producers, *spec.consumers) for spec in REGISTRY)]
PASSWORDS = {name: f"password-of-{name}" for name in (*SERVICES, OPERATOR, ADMIN)}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a server with users, without its scheme."""
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "users.acl").write_text(acl_file(PASSWORDS, KEYS.account))
    with running_server(folder / "data", aclfile=str(folder / "users.acl")) as url:
        yield url.removeprefix("redis://")


def connect(guarded: str, user: str) -> RedisBus:
    return RedisBus.connect(f"redis://{user}:{PASSWORDS[user]}@{guarded}")


def stream_of(spec: StreamSpec) -> str:
    return KEYS.all_streams(spec)[-1]


async def test_only_the_admin_may_load_functions(guarded: str, tmp_path: Path) -> None:
    service, admin = connect(guarded, "meta-svc"), connect(guarded, ADMIN)
    try:
        await admin._redis.function_flush()
        with pytest.raises(BusUnavailable, match="quantum redis-setup"):
            await service.lease(KEYS.lease("meta-svc", 0), "1", 1000)
        await admin.load_functions()
        assert await service.lease(KEYS.lease("meta-svc", 0), "1", 1000) > 0
    finally:
        await service.close()
        await admin.close()


@pytest.mark.parametrize("service", OF_THE_LINE)
async def test_a_service_consumes_emits_and_keeps_state_as_the_registry_says(guarded: str, service: str) -> None:
    bus, admin = connect(guarded, service), connect(guarded, ADMIN)
    try:
        await admin.load_functions()
        await bus.server_facts()
        await bus.tail({CONTROL_STREAM: "0-0"}, count=10, block_ms=1)
        await bus.newest(CONTROL_STREAM, 10)
        for spec in REGISTRY:
            if service in spec.consumers:
                await consume(bus, admin, service, stream_of(spec))
            if service in spec.producers and spec is not CONTROL:
                await emit(bus, service, stream_of(spec))
            if service in spec.producers and spec is CONTROL:
                await bus.append(CONTROL_STREAM, b"look")
    finally:
        await bus.close()
        await admin.close()


async def consume(bus: RedisBus, admin: RedisBus, service: str, stream: str) -> None:
    await bus.ensure_group(stream, service)
    for number in range(2):
        await admin.append(stream, str(number).encode())
    first, second = await bus.read([stream], service, "1", count=2, block_ms=0)
    assert (await bus.read_own_pending(stream, service, "1", "0-0", 10))[0] == [first, second]
    assert await bus.claim(stream, service, "1", min_idle_ms=0, count=10) == [first, second]
    await bus.take_over(stream, service, "1")
    letter = Output(dead(stream), b"letter")
    assert await bus.commit([Unit(inputs=[first], outputs=[letter])]) == [Status.OK]
    assert await bus.commit([Unit(inputs=[second])]) == [Status.OK]
    assert await bus.retire(stream, service, idle_ms=0) == 1
    assert (await bus.stream_infos([stream]))[stream].groups[service].pending == 0
    assert await bus.oldest_pending(stream, service) is None


async def emit(bus: RedisBus, service: str, stream: str) -> None:
    key = stream.partition(":")[0] + f":state:{service}"
    version = (await bus.state(key)).version
    mark = Watermark(stream, service, "BTCUSDT", version + 1)
    unit = Unit(states=[StateWrite(key, version, b"state")], watermarks=[mark], outputs=[Output(stream, b"event")])
    assert await bus.commit([unit]) == [Status.OK]
    assert (await bus.newest(stream, 1))[0].data == b"event"


@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_may_not_write_what_another_one_produces(guarded: str, service: str) -> None:
    bus, admin = connect(guarded, service), connect(guarded, ADMIN)
    try:
        await admin.load_functions()
        for spec in REGISTRY:
            if service in spec.producers:
                continue
            stream = stream_of(spec)
            with pytest.raises(NoPermissionError):
                await bus.append(stream, b"forged")
            with pytest.raises(Exception, match="permission|NOPERM|can't"):
                await bus.commit([Unit(outputs=[Output(stream, b"forged")])])
            assert all(entry.data != b"forged" for entry in await admin.newest(stream, 5))
    finally:
        await bus.close()
        await admin.close()


async def test_a_service_reads_no_state_but_its_own_and_has_no_say_over_the_server(guarded: str) -> None:
    agent = connect(guarded, "xgb-agent")
    try:
        for call in (
            agent.state(KEYS.account_state("governer-svc")),
            agent.tail({stream_of(DECISIONS): "0-0"}, count=1, block_ms=None),
            agent._redis.config_set("appendfsync", "no"),
            agent._redis.flushall(),
            agent._redis.function_flush(),
            agent._redis.acl_list(),
            agent._redis.keys("*"),
            agent._redis.delete(stream_of(FEATURES)),
            agent._redis.xtrim(stream_of(FEATURES), maxlen=0),
        ):
            with pytest.raises(NoPermissionError):
                await call
    finally:
        await agent.close()


async def test_the_recorder_trims_every_stream_and_moves_dead_letters(guarded: str) -> None:
    bus, admin = connect(guarded, "recorder-svc"), connect(guarded, ADMIN)
    try:
        await admin.load_functions()
        for spec in REGISTRY:
            stream = stream_of(spec)
            for group in spec.consumers:
                await admin.ensure_group(stream, group)
            letter = Entry(dead(stream), await admin.append(dead(stream), b"letter"), b"letter")
            assert (await bus.tail({letter.stream: "0-0"}, count=1, block_ms=None))[0].data == b"letter"
            assert await bus.commit([Unit(writes=[("XDEL", letter.stream, letter.entry_id)])]) == [Status.OK]
            if spec.consumers:
                assert await bus.trim(stream, spec.consumers, keep=5) is not None
    finally:
        await bus.close()
        await admin.close()


async def test_the_operator_sees_and_mends_everything_but_cannot_wipe_the_server(guarded: str) -> None:
    operator = connect(guarded, OPERATOR)
    try:
        await operator.state(KEYS.account_state("executor-svc"))
        await operator.append(CONTROL_STREAM, b"look")
        for call in (
            operator._redis.flushall(),
            operator._redis.config_set("appendonly", "no"),
            operator._redis.shutdown(),
        ):
            with pytest.raises(NoPermissionError):
                await call
    finally:
        await operator.close()


async def test_without_a_password_one_can_only_ask_whether_the_server_answers(guarded: str) -> None:
    nobody = RedisBus.connect(f"redis://{guarded}")
    with pytest.raises(AuthenticationError):
        await nobody._redis.ping()
    health = RedisBus.connect(f"redis://{HEALTH}:any@{guarded}")
    assert await health._redis.ping()
    for call in (health.newest(stream_of(FEATURES), 1), health._redis.flushall(), health._redis.info()):
        with pytest.raises(NoPermissionError):
            await call
    await nobody.close()
    await health.close()


async def test_what_was_committed_is_there_after_a_restart_of_the_guarded_server(tmp_path: Path) -> None:
    """On Redis 7.0 and others only while the default user, as whom they read their file, may do everything."""
    (tmp_path / "users.acl").write_text(acl_file(PASSWORDS, KEYS.account))
    for expected in (0, 1, 2):
        with running_server(tmp_path / "data", aclfile=str(tmp_path / "users.acl")) as url:
            admin, bus = (connect(url.removeprefix("redis://"), user) for user in (ADMIN, "meta-svc"))
            await admin.load_functions()
            assert (await bus.state("{p00}:state:meta-svc")).version == expected
            await emit(bus, "meta-svc", "{p00}:decisions")
            await bus.close()
            await admin.close()


def test_the_default_user_may_do_everything_and_nobody_can_be_it() -> None:
    assert "user default off resetpass ~* &* +@all" in acl_file(PASSWORDS, "paper").splitlines()


def test_no_password_stands_in_the_list_of_users() -> None:
    text = acl_file(PASSWORDS, "paper")
    assert not any(password in text for password in PASSWORDS.values())
