"""The web dashboard: pages made on the server, and the fragment that a small script fetches every 5 s."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from urllib.parse import urlencode

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from monitor_svc import charts
from monitor_svc.api import DecisionId, Symbol
from monitor_svc.core import NOTHING_CHOSEN, Choice
from monitor_svc.emergency import GovernerClient, Outcome, read_form
from monitor_svc.text import UNKNOWN, usd, utc
from monitor_svc.view import View

HERE = Path(__file__).parent
MOST_FORM_BYTES = 8_000
STATIC = {"style.css": "text/css", "refresh.js": "text/javascript", "icon.svg": "image/svg+xml"}
POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def ago(age_s: float | None) -> str:
    """An age in words; refresh.js says the same."""
    if age_s is None:
        return "never"
    for limit, unit_s, unit in ((90, 1, "s"), (5_400, 60, "min"), (172_800, 3_600, "h")):
        if age_s < limit:
            return f"{round(age_s / unit_s)} {unit} ago"
    return f"{round(age_s / 86_400)} d ago"


def number(value: float | Decimal | None, decimals: int = 2, suffix: str = "") -> str:
    return UNKNOWN if value is None else f"{value:,.{decimals}f}{suffix}"


def signed(value: float | Decimal, decimals: int = 2) -> str:
    return f"{value:+,.{decimals}f}".replace("-", "−")


def here(choice: Choice, **changes: str | None) -> str:
    """Address of this page with another choice."""
    query = {"symbol": choice.symbol, "decision": choice.decision_id} | changes
    return "?" + urlencode({name: value for name, value in query.items() if value})


def environment() -> Environment:
    """Templates escape everything, and a name that is missing is an error."""
    made = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(ago=ago, usd=usd, utc=utc, number=number, signed=signed)
    made.globals.update(charts=charts, here=here, UNKNOWN=UNKNOWN)
    return made


def pages_router(view: Callable[[Choice], View], governer: GovernerClient) -> APIRouter:
    """The dashboard, its fragment, and the form of the emergency stop."""
    routes, templates = APIRouter(include_in_schema=False), environment()

    def page(name: str, status: int = 200, **context: object) -> HTMLResponse:
        return HTMLResponse(templates.get_template(name).render(context), status, headers=HEADERS)

    def tiles_page(name: str, symbol: str | None, decision: str | None) -> HTMLResponse:
        choice = Choice(symbol, decision)
        return page(name, view=view(choice), choice=choice)

    @routes.get("/")
    async def dashboard(symbol: Symbol = None, decision: DecisionId = None) -> HTMLResponse:
        return tiles_page("page.html.jinja", symbol, decision)

    @routes.get("/tiles")
    async def tiles(symbol: Symbol = None, decision: DecisionId = None) -> HTMLResponse:
        return tiles_page("tiles.html.jinja", symbol, decision)

    @routes.get("/emergency-stop")
    async def form() -> HTMLResponse:
        return page("emergency.html.jinja", risk=view(NOTHING_CHOSEN).risk, outcome=None)

    @routes.post("/emergency-stop")
    async def emergency_stop(request: Request) -> HTMLResponse:
        body = await request.body() if _is_short(request) else b""
        wanted = read_form(body)
        outcome = Outcome(False, wanted) if isinstance(wanted, str) else await governer.emergency_stop(wanted)
        status = 200 if outcome.done else 400
        return page("emergency.html.jinja", status, risk=view(NOTHING_CHOSEN).risk, outcome=outcome)

    @routes.get("/static/{name}")
    async def static(name: str) -> Response:
        if name not in STATIC:
            return Response("no such file", 404, headers=HEADERS)
        kept = HEADERS | {"Cache-Control": "no-cache"}
        return Response((HERE / "static" / name).read_bytes(), media_type=STATIC[name], headers=kept)

    return routes


def _is_short(request: Request) -> bool:
    length = request.headers.get("content-length", "")
    return length.isdigit() and int(length) <= MOST_FORM_BYTES
