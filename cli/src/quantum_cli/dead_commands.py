"""`quantum dead`: look at what a service set aside, and replay or drop it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import typer

from quantum_cli.dead_letters import DeadLetters, Letter, NoSuchLetter, readable, typed
from quantum_cli.errors import UsageError
from quantum_cli.fleet_commands import AsJson, StateDir
from quantum_cli.reach import find_server
from quantum_cli.terminal import confirm, console, failing_with_a_message, print_json, printable
from quantum_common.bus import Bus, RedisBus
from quantum_common.contracts import Keys
from quantum_common.service.clock import wall_ms

dead_app = typer.Typer(no_args_is_help=True, help="Dead letters: entries that a service could not handle.")

LetterId = Annotated[str | None, typer.Argument(metavar="ID", help="As quantum dead list prints it")]
Stream = Annotated[str | None, typer.Option("--stream", help="Only this stream: a name such as decisions")]
ReasonContains = Annotated[str, typer.Option("--reason-contains", help="Only letters whose reason has this text")]
All = Annotated[bool, typer.Option("--all", help="Every letter that the filters let through")]

T = TypeVar("T")


@dead_app.command("list")
def list_letters(
    stream: Stream = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many, the newest")] = 50,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """The newest dead letters, newest first."""
    letters = _with_letters(state_dir, lambda dead_letters: dead_letters.newest(limit, stream))
    if as_json:
        print_json([_row(letter) for letter in letters])
    elif letters:
        console.print(*_table(letters), sep="\n", markup=False, soft_wrap=True)
    else:
        console.print("no dead letters")


@dead_app.command()
def show(
    letter_id: Annotated[str, typer.Argument(metavar="ID", help="As quantum dead list prints it")],
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """Everything about one dead letter, with the original data."""
    letter = _with_letters(state_dir, lambda dead_letters: dead_letters.get(letter_id))
    data = readable(letter.content.data)
    if as_json:
        print_json({**_row(letter), **data})
        return
    for name, value in _row(letter).items():
        console.print(f"{name:<9} {printable(str(value))}", markup=False, soft_wrap=True)
    text = msgspec.json.format(msgspec.json.encode(data["data"])).decode() if "data" in data else data["data_repr"]
    console.print("data", *map(printable, text.splitlines()), sep="\n", markup=False, soft_wrap=True)


@dead_app.command()
def replay(
    letter_id: LetterId = None,
    every: All = False,
    stream: Stream = None,
    reason_contains: ReasonContains = "",
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """Put the original entry back on its stream and remove the letter. What is still bad comes back as a new letter."""

    async def work(dead_letters: DeadLetters) -> tuple[list[Letter], list[Letter]]:
        _check(letter_id, every, stream, reason_contains)
        if letter_id is not None:
            return await dead_letters.replay(letter_id), []
        return await dead_letters.replay_all(stream, reason_contains)

    removed, left = _with_letters(state_dir, work)
    _say("replayed", removed, left, as_json)


@dead_app.command()
def drop(
    letter_id: LetterId = None,
    every: All = False,
    stream: Stream = None,
    reason_contains: ReasonContains = "",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask")] = False,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """Remove dead letters for good."""

    async def choose(dead_letters: DeadLetters) -> list[Letter]:
        _check(letter_id, every, stream, reason_contains)
        if letter_id is not None:
            return [await dead_letters.get(letter_id)]
        return await dead_letters.matching(stream, reason_contains)

    async def work(dead_letters: DeadLetters) -> list[Letter]:
        removed: list[Letter] = []
        for letter in chosen:
            with suppress(NoSuchLetter):  # someone else was faster
                removed += await dead_letters.drop(letter.id)
        return removed

    chosen = _with_letters(state_dir, choose)
    if chosen and not yes:
        with failing_with_a_message():
            confirm(f"drop {chosen[0].id if len(chosen) == 1 else f'{len(chosen)} dead letters'} for good?")
    _say("dropped", _with_letters(state_dir, work), [], as_json)


def _with_letters(state_dir: Path | None, work: Callable[[DeadLetters], Awaitable[T]]) -> T:
    """Do the work on the chosen server; the project's errors end the command with a message."""

    async def connected() -> T:
        bus, keys = _server(state_dir)
        try:
            return await work(DeadLetters(bus, keys))
        finally:
            await bus.close()

    with failing_with_a_message():
        return asyncio.run(connected())


def _server(state_dir: Path | None) -> tuple[Bus, Keys]:
    settings = find_server(state_dir)
    try:
        return RedisBus.connect(settings.redis_url.get_secret_value()), settings.keys
    except ValueError as error:
        raise UsageError(f"QT_REDIS_URL: {error}") from error


def _check(letter_id: str | None, every: bool, stream: str | None, reason_contains: str) -> None:
    """UsageError unless the options mean one letter or, with --all, those of a filter."""
    if every == (letter_id is not None):
        raise UsageError("give the ID of a dead letter, or --all")
    if letter_id is not None and (stream is not None or reason_contains):
        raise UsageError("--stream and --reason-contains choose among --all")


def _say(verb: str, removed: Sequence[Letter], left: Sequence[Letter], as_json: bool) -> None:
    if as_json:
        print_json({verb: [letter.id for letter in removed], "left": [letter.id for letter in left]})
        return
    for letter in removed:
        console.print(f"{verb} {letter.id}", soft_wrap=True)
    for letter in left:
        console.print(f"left {letter.id}: it never was an entry of its stream", soft_wrap=True)
    if not removed and not left:
        console.print("no dead letter matches")


def _row(letter: Letter) -> dict[str, Any]:
    content = letter.content
    return {
        "id": letter.id,
        "age_s": max(0, wall_ms() - letter.at_ms) / 1000,
        "stream": letter.stream,
        "entry_id": content.entry_id,
        "group": content.group,
        "attempts": content.attempts,
        "reason": content.reason,
    }


def _table(letters: Sequence[Letter]) -> list[str]:
    """Aligned lines under a heading; never cut, so that an id can be copied from any terminal."""
    rows = [("id", "age", "stream", "group", "attempts", "reason")]
    for letter in letters:
        content, age = letter.content, _age(max(0, wall_ms() - letter.at_ms) / 1000)
        rows.append((letter.id, age, typed(letter.stream), content.group, str(content.attempts), content.reason))
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in cells]


def _age(seconds: float) -> str:
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
