"""`quantum dead` as people and scripts use it: what it prints, what it asks, its exit codes."""

import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from redis import Redis
from typer.testing import CliRunner, Result

from quantum_cli.main import app
from quantum_cli.running import RunningFleet, announced
from quantum_common.bus import DeadLetter
from quantum_common.testing import free_port, running_server

DECISIONS, FEATURES = "{p00}:decisions", "{p00}:features"


@pytest.fixture(scope="module")
def server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_server(tmp_path_factory.mktemp("server")) as url:
        yield url


@pytest.fixture
def server(server_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Redis]:
    monkeypatch.setenv("QT_REDIS_URL", server_url)
    monkeypatch.chdir(tmp_path)
    with Redis.from_url(server_url) as client:
        client.flushall()
        yield client


def put(
    server: Redis, stream: str = DECISIONS, entry_id: str = "7-0", reason: str = "bad", data: bytes = b'{"a": [1]}'
) -> str:
    """Write a letter; returns its id as a person types it."""
    letter = msgspec.json.encode(DeadLetter(stream, entry_id, "meta-svc", 3, reason, data))
    at = server.xadd(f"{stream}:dead", {"e": letter})
    assert isinstance(at, bytes)
    return f"{stream.replace('{', '').replace('}', '')}:{at.decode()}"


@contextmanager
def running(folder: Path, url: str, partitions: int = 1) -> Iterator[None]:
    """A fleet of `quantum up` in this folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text('{"models": "models"}')
    with announced(folder, RunningFleet(os.getpid(), url, "", partitions)):
        yield


def quantum(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["dead", *arguments])


def test_the_list_is_newest_first_with_whole_ids(server: Redis) -> None:
    older, newer = put(server, reason="older " + "x" * 200), put(server, reason="newer [/b] \x1b[31m")
    lines = quantum("list").output.splitlines()
    assert lines[0].split() == ["id", "age", "stream", "group", "attempts", "reason"]
    assert [line.split()[0] for line in lines[1:]] == [newer, older]
    assert lines[1].endswith(r"newer [/b] \x1b[31m")
    assert lines[2].endswith("x" * 200)
    assert len(quantum("list", "--limit", "1").output.splitlines()) == 2
    assert quantum("list", "--stream", "features").output == "no dead letters\n"
    assert quantum("list", "--stream", "feature").exit_code == 2


def test_the_list_as_json_has_every_fact(server: Redis) -> None:
    letter_id = put(server)
    [row] = json.loads(quantum("list", "--json").output)
    assert row.pop("age_s") < 60
    assert row == {
        "id": letter_id,
        "stream": DECISIONS,
        "entry_id": "7-0",
        "group": "meta-svc",
        "attempts": 3,
        "reason": "bad",
    }
    assert json.loads(quantum("list", "--stream", "features", "--json").output) == []


def test_showing_decodes_json_and_falls_back_to_repr(server: Redis) -> None:
    as_json, as_bytes = put(server), put(server, data=b"\x00not json")
    assert json.loads(quantum("show", as_json, "--json").output)["data"] == {"a": [1]}
    assert json.loads(quantum("show", as_bytes, "--json").output)["data_repr"] == repr(b"\x00not json")
    assert '"a": [' in quantum("show", as_json).output
    assert repr(b"\x00not json") in quantum("show", as_bytes).output


def test_a_replayed_letter_is_on_its_stream_again(server: Redis) -> None:
    letter_id = put(server)
    result = quantum("replay", letter_id, "--json")
    assert (result.exit_code, json.loads(result.output)) == (0, {"replayed": [letter_id], "left": []})
    assert [fields for _, fields in server.xrange(DECISIONS)] == [{b"e": b'{"a": [1]}'}]
    assert server.xlen(f"{DECISIONS}:dead") == 0
    assert quantum("replay", letter_id).exit_code == 2


def test_a_refused_candle_is_refused_alone_and_left_among_all(server: Redis) -> None:
    candle = put(server, FEATURES, entry_id="", reason="bad_bar: high")
    entry = put(server)
    alone = quantum("replay", candle)
    assert alone.exit_code == 2
    assert "was never an entry" in alone.output
    result = quantum("replay", "--all", "--json")
    assert (result.exit_code, json.loads(result.output)) == (0, {"replayed": [entry], "left": [candle]})


def test_dropping_without_a_terminal_needs_yes(server: Redis) -> None:
    first, second = put(server, reason="KeyError"), put(server, reason="other")
    assert quantum("drop", first).exit_code == 2
    assert quantum("drop", "--all").exit_code == 2
    assert server.xlen(f"{DECISIONS}:dead") == 2
    assert json.loads(quantum("drop", "--all", "--reason-contains", "Key", "--yes", "--json").output)["dropped"] == [
        first
    ]
    assert quantum("drop", second, "--yes").exit_code == 0
    assert server.xlen(f"{DECISIONS}:dead") == 0
    assert server.xlen(DECISIONS) == 0


@pytest.mark.parametrize(("answer", "exit_code", "left"), [(b"n\n", 1, 1), (b"y\n", 0, 0)])
def test_on_a_terminal_dropping_asks(server: Redis, answer: bytes, exit_code: int, left: int) -> None:
    letter_id = put(server)
    keyboard, terminal = pty.openpty()
    try:
        os.write(keyboard, answer)
        command = [sys.executable, "-m", "quantum_cli", "dead", "drop", letter_id]
        done = subprocess.run(command, stdin=terminal, capture_output=True, check=False, timeout=60)
    finally:
        os.close(keyboard)
        os.close(terminal)
    assert f"drop {letter_id} for good?" in done.stderr.decode()
    assert done.returncode == exit_code
    assert server.xlen(f"{DECISIONS}:dead") == left


@pytest.mark.parametrize("command", ["show", "replay", "drop"])
def test_an_unknown_id_is_wrong_usage(server: Redis, command: str) -> None:
    for letter_id in ("p00:decisions:1-0", "nonsense"):
        result = quantum(command, letter_id)
        assert result.exit_code == 2
        assert letter_id in result.output


@pytest.mark.parametrize("command", ["replay", "drop"])
@pytest.mark.parametrize(
    "arguments", [[], ["p00:decisions:1-0", "--all"], ["p00:decisions:1-0", "--stream", "decisions"]]
)
def test_an_id_and_all_exclude_each_other(server: Redis, command: str, arguments: list[str]) -> None:
    assert quantum(command, *arguments).exit_code == 2


def test_a_server_that_cannot_be_reached_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QT_REDIS_URL", f"redis://127.0.0.1:{free_port()}/0")
    assert quantum("list").exit_code == 1


@pytest.mark.parametrize(("name", "value"), [("QT_REDIS_URL", "nonsense"), ("QT_PARTITIONS", "none")])
def test_a_setting_that_is_not_valid_is_wrong_usage(
    server: Redis, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    result = quantum("list")
    assert result.exit_code == 2
    assert name in result.output


def test_without_an_exported_server_the_running_fleet_s_is_asked(
    server: Redis, server_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    put(server)
    monkeypatch.delenv("QT_REDIS_URL")
    assert quantum("list").exit_code == 2
    with running(Path("state/run"), server_url):
        assert len(json.loads(quantum("list", "--json").output)) == 1


def test_in_a_container_the_server_stands_among_the_secrets(
    server: Redis, server_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    put(server)
    monkeypatch.delenv("QT_REDIS_URL")
    (tmp_path / "qt_redis_url").write_text(server_url)
    monkeypatch.setenv("QT_SECRETS_DIR", str(tmp_path))
    assert len(json.loads(quantum("list", "--json").output)) == 1


def test_a_named_folder_counts_more_than_an_exported_server(
    server: Redis, server_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    put(server)
    monkeypatch.setenv("QT_REDIS_URL", f"redis://127.0.0.1:{free_port()}/0")
    assert quantum("list", "--state-dir", str(tmp_path)).exit_code == 2
    with running(tmp_path, server_url):
        assert len(json.loads(quantum("list", "--json", "--state-dir", str(tmp_path)).output)) == 1


def test_the_letters_of_every_partition_of_a_running_fleet_are_there(server: Redis, server_url: str) -> None:
    put(server, "{p03}:decisions")
    with running(Path("run"), server_url, partitions=4):
        assert [row["stream"] for row in json.loads(quantum("list", "--json", "--state-dir", "run").output)] == [
            "{p03}:decisions"
        ]
