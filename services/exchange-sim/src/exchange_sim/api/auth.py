"""Who may ask: API key, receive window and signature, with the venue's codes. Pure: time comes in."""

from __future__ import annotations

import hashlib
import hmac

from exchange_sim.errors import VenueError
from exchange_sim.requests import Params, integer

DEFAULT_WINDOW_MS = 5_000
MAX_WINDOW_MS = 60_000
AHEAD_MS = 1_000


def check_signed(
    api_key: str | None, payload: str, params: Params, *, known_key: str, secret: str, wall_ms: int
) -> None:
    """Raise VenueError unless the request is this account's, in time and unchanged.

    `payload` is the query string or body as sent, with its trailing signature.
    """
    if not api_key:
        raise VenueError(-2014)
    if not hmac.compare_digest(api_key.encode(), known_key.encode()):
        raise VenueError(-2015)
    _check_time(params, wall_ms)
    signature = params.get("signature")
    if not signature:
        raise VenueError(-1102, "signature")
    signed, _, _ = payload.rpartition("&signature=")
    expected = hmac.new(secret.encode(), signed.encode(), hashlib.sha256).hexdigest()
    if not hmac.compare_digest(expected.encode(), signature.encode()):
        raise VenueError(-1022)


def _check_time(params: Params, wall_ms: int) -> None:
    sent_ms = integer(params, "timestamp")
    if sent_ms is None:
        raise VenueError(-1102, "timestamp")
    window_ms = integer(params, "recvWindow", DEFAULT_WINDOW_MS) or DEFAULT_WINDOW_MS
    if window_ms > MAX_WINDOW_MS:
        raise VenueError(-1131)
    if sent_ms >= wall_ms + AHEAD_MS:
        raise VenueError(-1021, message=f"Timestamp for this request was {AHEAD_MS}ms ahead of the server's time.")
    if wall_ms - sent_ms > window_ms:
        raise VenueError(-1021)
