"""`quantum logs` on real files: order, limits, and files that are truncated or replaced while they are followed."""

import os
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from quantum_cli.logs import BLOCK_BYTES, Tail, newest, time_of
from quantum_cli.main import app


def line(second: int, text: str) -> str:
    return f"2026-01-02 03:04:{second:02d}.000Z INFO {text}\n"


def write(folder: Path, name: str, *lines: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.log"
    path.write_text("".join(lines))
    return path


def quantum(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["logs", *map(str, arguments)])


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state folder of a fleet that has ended."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("QT_LOG_DIR", raising=False)
    logs = tmp_path / "state" / "run" / "logs"
    write(logs, "meta-agent", line(1, "[META-V2] A"), line(4, "[META-V2] B"))
    write(logs, "governer-svc", line(2, "[GOVERNER] A"), "Traceback\n", "  ValueError\n", line(3, "[GOVERNER] B"))
    return logs.parent


def test_lines_of_several_services_come_in_the_order_of_time_with_their_service(state: Path) -> None:
    words = [row.split(" | ", 1) for row in quantum().output.splitlines()]
    assert [name.strip() for name, _ in words] == ["meta-svc"] + ["governer-svc"] * 4 + ["meta-svc"]
    assert [text.split()[-1] for _, text in words] == ["A", "A", "Traceback", "ValueError", "B", "B"]
    assert quantum("meta-svc").output == line(1, "[META-V2] A") + line(4, "[META-V2] B")


def test_the_newest_lines_that_have_the_text_are_taken_and_a_traceback_stays_with_its_line(state: Path) -> None:
    assert [row[-1] for row in quantum("-n", 2).output.splitlines()] == ["B", "B"]
    assert quantum("--grep", "[META-V2]", "-n", 1, "meta-svc").output == line(4, "[META-V2] B")
    assert quantum("--grep", "ValueError", "governer-svc").output.count("\n") == 3
    assert quantum("--grep", "nothing has this").output == ""


def test_a_line_cannot_steer_the_terminal(state: Path) -> None:
    write(state / "logs", "xgb-agent", line(1, "\x1b[31mred"))
    assert "\x1b" not in CliRunner().invoke(app, ["logs", "xgb-agent"], color=True).output


def test_json_lines_and_those_of_the_server_have_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    assert time_of('{"time": "2026-01-02 03:04:05.006Z", "level": "INFO"}') == "2026-01-02 03:04:05.006Z"
    assert time_of("17:M 02 Jan 2026 12:04:05.006 * Ready")[14:] == "04:05.006Z"
    assert time_of("  ValueError") == ""


def test_a_service_that_does_not_exist_and_a_folder_without_logs_are_wrong_usage(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert quantum("meta").exit_code == 2
    monkeypatch.chdir(state)  # as in a container: no state folder here
    result = quantum("meta-svc", "-f", "--grep", "[META-V2] BTC USDT", "-n", 20)
    assert result.exit_code == 2
    assert "docker compose logs -f --tail 20 meta-svc | grep -F '[META-V2] BTC USDT'" in result.output
    assert quantum("--state-dir", tmp_path).exit_code == 2
    monkeypatch.setenv("QT_LOG_DIR", str(state / "logs"))
    assert quantum("meta-svc", "-n", 1).output == line(4, "[META-V2] B")


def test_several_state_folders_must_be_chosen_from(state: Path) -> None:
    write(state.parent / "other" / "logs", "meta-agent", line(1, "[META-V2] other"))
    assert quantum("meta-svc").exit_code == 2
    assert quantum("meta-svc", "--state-dir", state.parent / "other").output == line(1, "[META-V2] other")


def test_a_large_file_is_not_read_whole(tmp_path: Path) -> None:
    path = write(tmp_path, "a", *(line(index % 60, "x" * 100 + str(index)) for index in range(200_000)))
    tracemalloc.start()
    try:
        found = newest({"a": path}, 5)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [record.text[-6:] for record in found] == [str(index) for index in range(199_995, 200_000)]
    assert peak < 20 * BLOCK_BYTES < path.stat().st_size / 10


def test_lines_longer_than_a_block_and_without_an_end_come_whole(tmp_path: Path) -> None:
    long = "y" * (3 * BLOCK_BYTES)
    path = write(tmp_path, "a", line(1, "first"), line(2, long), line(3, "last")[:-1])
    assert [record.text[30:] for record in newest({"a": path}, 9)] == ["first", long, "last"]


def texts(tail: Tail) -> list[str]:
    return [record.text[30:] for record in tail.look()]


def append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


def test_following_gives_each_whole_line_once(tmp_path: Path) -> None:
    path = write(tmp_path, "a", line(1, "before"))
    tail = Tail("a", path)
    assert texts(tail) == []
    append(path, line(2, "one") + line(3, "two")[:-1])
    assert texts(tail) == ["one"]
    append(path, "\n")
    assert texts(tail) == ["two"]
    assert texts(tail) == []


def test_what_is_written_while_the_newest_lines_are_read_is_told_once(tmp_path: Path) -> None:
    path = write(tmp_path, "a", line(1, "before"))
    tail = Tail("a", path)
    append(path, line(2, "meanwhile"))
    shown = [record.text[-6:] for record in newest({"a": path}, 10, ends={"a": tail.begins})]
    assert shown == ["before"]
    assert [text[-9:] for text in texts(tail)] == ["meanwhile"]
    tail.close()


def test_following_goes_on_after_a_truncation_a_rotation_and_a_late_start(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    tail = Tail("a", path)
    assert texts(tail) == []
    path.write_text(line(1, "made later"))
    assert texts(tail) == ["made later"]
    path.write_text(line(2, "cut"))  # shorter: truncated in place
    assert texts(tail) == ["cut"]
    append(path, line(3, "last of the old"))
    path.rename(tmp_path / "a.log.1")
    path.write_text(line(4, "first of the new"))
    assert texts(tail) == ["last of the old"]
    assert texts(tail) == []  # sees that the file is another one
    assert texts(tail) == ["first of the new"]


def test_following_prints_what_is_written_and_ends_at_an_interrupt(state: Path) -> None:
    command = [sys.executable, "-m", "quantum_cli", "logs", "meta-svc", "-f", "-n", "1", "--state-dir", str(state)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    ) as follower:
        assert follower.stdout
        assert follower.stdout.readline() == line(4, "[META-V2] B")
        append(state / "logs" / "meta-agent.log", line(5, "[META-V2] C"))
        assert follower.stdout.readline() == line(5, "[META-V2] C")
        follower.send_signal(signal.SIGINT)
        assert follower.wait(10) == 0
