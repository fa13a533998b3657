"""Which fleet an operator's command speaks to, and how it asks the services.

A folder named with --state-dir counts most; then an exported QT_SERVICE_URL or QT_PORT_OFFSET, as the services read it
(in a container: names of services, the token from a file of QT_SECRETS_DIR); then the only fleet that runs below
./state; then the documented ports of this machine, where a compose fleet publishes them.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import httpx

from quantum_cli.errors import RunFailed, UsageError
from quantum_cli.fleet import ACCOUNT
from quantum_cli.running import STATE_FOLDERS, RunningFleet, choose_fleet, models_of, read_token, running_below
from quantum_common.service import FleetSettings
from quantum_common.service.settings import WrongSettings, validated

ADDRESS_NAMES = ("QT_SERVICE_URL", "QT_PORT_OFFSET")
SERVER_NAMES = ("QT_REDIS_URL", "QT_SECRETS_DIR")
"""Either may hold the server's address: in a container it is a file among the secrets."""
ASK_WITHIN_S = 2.0
CHANGE_WITHIN_S = 15.0
"""A flatten waits for the venue."""
NO_LOCAL_FLEET = f"nothing was named, and no fleet runs from a folder below ./{STATE_FOLDERS}"

Key = TypeVar("Key")
Kind = TypeVar("Kind", bound=FleetSettings)


@dataclass(frozen=True, slots=True)
class Reach:
    """One fleet: its settings as a service of it has them, and how it was found."""

    settings: FleetSettings
    how: str
    """In words, for a person whose command reached the wrong fleet or none."""
    state_dir: Path | None = None
    """Of a fleet that `quantum up` runs on this machine."""

    def url_of(self, service: str) -> str:
        return self.settings.url_of(service)

    @property
    def token(self) -> str:
        """What mutations bear. UsageError that says where one can be put."""
        if self.state_dir is not None:
            return read_token(self.state_dir)
        if self.settings.api_token is None:
            raise UsageError(
                "no token: set QT_API_TOKEN, or QT_SECRETS_DIR to a folder with the file qt_api_token, "
                f"or name a local fleet with --state-dir ({self.how})"
            )
        return self.settings.api_token.get_secret_value()


class Answer(NamedTuple):
    """What came back: a JSON body with its HTTP status, or the problem in words."""

    status: int = 0
    body: Any = None
    problem: str = ""

    @property
    def good(self) -> bool:
        return self.status == 200


def find_fleet(state_dir: Path | None) -> Reach:
    """UsageError: the folder's fleet does not run, several run and none is named, or a setting does not validate."""
    if state_dir is None:
        if named := [f"{name}={os.environ[name]}" for name in ADDRESS_NAMES if os.environ.get(name)]:
            return Reach(exported(FleetSettings), " ".join(named))
        if not running_below(STATE_FOLDERS):
            return Reach(exported(FleetSettings), f"the documented ports of this machine: {NO_LOCAL_FLEET}")
    return local_fleet(*choose_fleet(state_dir))


def find_server(state_dir: Path | None) -> FleetSettings:
    """Settings that name the fleet's server, for what is asked of it directly. UsageError as `find_fleet`.

    A folder that was named counts most, then an exported server, then the fleet that runs here.
    """
    if state_dir is None and (exported := exported_server()):
        return exported
    return local_fleet(*choose_fleet(state_dir)).settings


def exported_server() -> FleetSettings | None:
    """What the environment says of a server, itself or by its secrets; None where it says nothing."""
    return exported(FleetSettings) if any(os.environ.get(name) for name in SERVER_NAMES) else None


def local_fleet(folder: Path, fleet: RunningFleet) -> Reach:
    """A fleet that `quantum up` runs from this folder. UsageError when the folder is no run's."""
    settings = exported(
        FleetSettings,
        redis_url=fleet.redis_url,
        port_offset=fleet.port_offset,
        service_url=FleetSettings.model_fields["service_url"].default,
        partitions=fleet.partitions,
        account=ACCOUNT,
        state_dir=folder,
        models_dir=models_of(folder),
    )
    return Reach(settings, f"the fleet that runs from {folder}", folder)


def exported(kind: type[Kind], **known: Any) -> Kind:
    """Settings as the environment has them, but for what is known. UsageError that names each wrong variable."""
    try:
        return validated(lambda: kind(**known))
    except WrongSettings as error:
        raise UsageError(str(error)) from error


async def ask_all(reach: Reach, questions: Mapping[Key, tuple[str, str]]) -> dict[Key, Answer]:
    """GET every (service, path) at the same time; what does not answer within `ASK_WITHIN_S` is an Answer as well."""
    async with httpx.AsyncClient(timeout=ASK_WITHIN_S, trust_env=False) as client:
        answers = await asyncio.gather(
            *(_ask(client, reach.url_of(service), path) for service, path in questions.values())
        )
    return dict(zip(questions, answers, strict=True))


async def _ask(client: httpx.AsyncClient, url: str, path: str) -> Answer:
    try:
        response = await client.get(url + path)
        return Answer(response.status_code, response.json())
    except httpx.ConnectError:
        return Answer(problem=f"nothing answers at {url}")
    except httpx.TimeoutException:
        return Answer(problem=f"no answer within {ASK_WITHIN_S:g} s at {url}")
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        return Answer(problem=f"no service of the fleet answers at {url}: {error!r}")


def change(reach: Reach, service: str, path: str, body: Mapping[str, Any]) -> Any:
    """POST with the token; the answer's body. RunFailed with the cause when it is refused or not known to be done."""
    url, token = reach.url_of(service) + path, reach.token
    headers = {"Authorization": f"Bearer {token}"}
    try:
        response = httpx.post(url, json=dict(body), headers=headers, timeout=CHANGE_WITHIN_S, trust_env=False)
        answer = response.json()
    except httpx.ConnectError as error:
        raise RunFailed(f"{service} does not answer at {url} ({reach.how})") from error
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise RunFailed(f"{service} at {url}: not done, or not known to be: {error!r}") from error
    if response.status_code != 200:
        raise RunFailed(f"{service} refuses ({response.status_code}): {_detail(answer)}")
    return answer


def _detail(answer: Any) -> str:
    """Of an error of the API: words, or a row for each wrong field."""
    detail = answer.get("detail", answer) if isinstance(answer, dict) else answer
    if isinstance(detail, list):
        return "; ".join(f"{'.'.join(map(str, row['loc']))}: {row['msg']}" for row in detail)
    return str(detail)
