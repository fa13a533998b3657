"""Commands on a running local fleet: `quantum redeploy`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import httpx
import typer

from quantum_cli.errors import RunFailed, UsageError
from quantum_cli.fleet import READY_WITHIN_S
from quantum_cli.running import RunningFleet, choose_fleet, read_token
from quantum_cli.supervisor import STOP_WAIT_S
from quantum_cli.terminal import console, failing_with_a_message

StateDir = Annotated[Path | None, typer.Option("--state-dir", help="State folder of the running fleet")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON")]


def redeploy(
    service: Annotated[str, typer.Argument(help="Service to end and start again, such as meta-svc")],
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """Let one service of a running fleet drain, start it again, and wait until it answers. The others go on."""
    from quantum_cli.control import Redeployed, in_words

    with failing_with_a_message():
        folder, fleet = choose_fleet(state_dir)
        done = Redeployed.model_validate(ask_for_redeploy(fleet, read_token(folder), service))
    if as_json:
        console.print_json(done.model_dump_json())
    else:
        console.print(f"{service}: {in_words(done)}", markup=False, soft_wrap=True)
    if not done.good:
        raise typer.Exit(1)


def ask_for_redeploy(fleet: RunningFleet, token: str, service: str) -> object:
    """The fleet's answer, good or not. UsageError for a service it does not have, RunFailed when it does not do it."""
    try:
        response = httpx.post(
            f"{fleet.control_url}/fleet/{service}/redeploy",
            headers={"Authorization": f"Bearer {token}"},
            timeout=STOP_WAIT_S + READY_WITHIN_S + 10,
            trust_env=False,
        )
        answer = response.json()
    except (httpx.HTTPError, ValueError) as error:
        raise RunFailed(f"the fleet at {fleet.control_url} does not answer: {error!r}") from error
    if response.status_code == 404:
        raise UsageError(answer["detail"])
    if "detail" in answer:
        raise RunFailed(answer["detail"])
    return answer
