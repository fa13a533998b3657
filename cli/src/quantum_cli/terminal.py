"""Where commands print, and how they fail."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import msgspec
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from quantum_cli.errors import UsageError
from quantum_common import QuantumError
from quantum_common.service.settings import UnknownSetting

console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)


def progress_bar() -> Progress:
    """On stderr, so that stdout stays what the command prints."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:.0f} %"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
    )


def fail(error: QuantumError) -> NoReturn:
    """End the command with the error's message: exit code 2 for wrong usage, else 1."""
    errors.print(f"[red]error:[/] {escape(str(error))}", soft_wrap=True)
    raise typer.Exit(2 if isinstance(error, UsageError | UnknownSetting) else 1) from error


@contextmanager
def failing_with_a_message() -> Iterator[None]:
    """Turn the project's errors into exit codes."""
    try:
        yield
    except QuantumError as error:
        fail(error)


def print_json(value: Any) -> None:
    """What scripts read: indented, never wrapped."""
    typer.echo(msgspec.json.format(msgspec.json.encode(value)).decode())


def confirm(question: str) -> None:
    """Ask on a terminal; exit code 1 after a no. UsageError where nobody can answer."""
    if not sys.stdin.isatty():
        raise UsageError(f"{question} Say so with --yes")
    if not typer.confirm(question, err=True):
        raise typer.Exit(1)


def printable(text: str) -> str:
    """What came from outside must not steer the terminal."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
