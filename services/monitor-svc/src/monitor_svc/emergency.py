"""The emergency stop, handed through to governer-svc with the operator's own token, which is kept nowhere."""

from __future__ import annotations

from urllib.parse import parse_qs

import httpx
import msgspec
from pydantic import SecretStr

from quantum_common.service import FleetSettings

TIMEOUT_S = 10.0
MOST_REASON, MOST_TOKEN = 500, 500


class StopRequest(msgspec.Struct, frozen=True):
    """What an operator asks for."""

    active: bool
    reason: str
    flatten: bool
    token: SecretStr


class Outcome(msgspec.Struct, frozen=True):
    done: bool
    text: str
    """For people; never holds the token."""


def read_form(body: bytes) -> StopRequest | str:
    """The form's fields, or what is wrong with them."""
    try:
        fields = {name: values[-1].strip() for name, values in parse_qs(body.decode()).items()}
    except (UnicodeDecodeError, ValueError):
        return "the form could not be read"
    reason, token = fields.get("reason", ""), fields.get("token", "")
    if not reason or len(reason) > MOST_REASON:
        return f"give a reason of at most {MOST_REASON} characters"
    if not token or len(token) > MOST_TOKEN or not token.isascii() or not token.isprintable():
        return "give the API token: quantum up writes it to the file api-token in its state folder"
    if fields.get("active") not in ("on", "off"):
        return "say whether the stop goes on or off"
    return StopRequest(fields["active"] == "on", reason, fields.get("flatten") == "yes", SecretStr(token))


class GovernerClient:
    """Asks governer-svc to stop or to resume."""

    def __init__(self, settings: FleetSettings, client: httpx.AsyncClient) -> None:
        self._url = settings.url_of("governer-svc") + "/api/risk/emergency_stop"
        self._client = client

    async def emergency_stop(self, wanted: StopRequest) -> Outcome:
        """What came of it, in words."""
        body = {"active": wanted.active, "reason": wanted.reason, "flatten": wanted.flatten, "who": "dashboard"}
        headers = {"Authorization": f"Bearer {wanted.token.get_secret_value()}"}
        try:
            response = await self._client.post(self._url, json=body, headers=headers, timeout=TIMEOUT_S)
        except httpx.HTTPError as error:
            return Outcome(
                False, f"governer-svc did not answer ({type(error).__name__}): look at the state before you try again"
            )
        if response.status_code == 200:
            flattened = ", and every position is being closed" if wanted.flatten else ""
            return Outcome(True, f"The emergency stop is {'on' if wanted.active else 'off'}{flattened}.")
        if response.status_code == 401:
            return Outcome(False, "governer-svc refused the token: nothing was changed")
        if response.status_code == 403:
            return Outcome(False, "governer-svc has no token set (QT_API_TOKEN), so it takes no changes")
        return Outcome(False, f"governer-svc answered {response.status_code}: {_detail(response)}")


def _detail(response: httpx.Response) -> str:
    try:
        detail = response.json()["detail"]
    except (ValueError, KeyError, TypeError):
        return "without saying why"
    return str(detail)[:300]
