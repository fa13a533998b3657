"""Routes of every service, and the guard of mutations."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import SecretStr

from quantum_common import __version__
from quantum_common.contracts.envelope import SCHEMA_VERSION
from quantum_common.service.definition import Service
from quantum_common.service.settings import FleetSettings


def kit_router(service: Service) -> APIRouter:
    """/health/live, /health/ready, /metrics and /info."""
    router = APIRouter(tags=["kit"])

    @router.get("/health/live")
    async def live() -> JSONResponse:
        """200 while every loop progresses; 503 names the ones that do not."""
        stuck = service.progress.stuck()
        return JSONResponse({"live": not stuck, "stuck_loops": stuck}, 503 if stuck else 200)

    @router.get("/health/ready")
    async def ready() -> JSONResponse:
        """200 when the service can do useful work; 503 lists what is missing."""
        reasons = service.unready()
        return JSONResponse({"ready": not reasons, "reasons": reasons}, 503 if reasons else 200)

    @router.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    @router.get("/info")
    async def info() -> dict[str, Any]:
        return {
            "service": service.settings.service,
            "instance": service.settings.instance,
            "version": __version__,
            "schema_versions": {"events": SCHEMA_VERSION},
            "settings": redacted(service.settings),
            **service.info(),
        }

    return router


async def bad_request(_: Request, error: Exception) -> JSONResponse:
    """422 that names each wrong field, without its value: NaN and infinity cannot be written as JSON."""
    assert isinstance(error, RequestValidationError)
    rows = [{"loc": row["loc"], "msg": row["msg"], "type": row["type"]} for row in error.errors()]
    return JSONResponse({"detail": rows}, 422)


def redacted(settings: FleetSettings) -> dict[str, Any]:
    """Settings as shown to people: secrets as asterisks."""
    return {
        name: "**********" if isinstance(value, SecretStr) else value
        for name, value in settings.model_dump(mode="python").items()
    }


def require_token(settings: FleetSettings) -> Callable[[Request], None]:
    """FastAPI dependency: 401 unless the request bears `Authorization: Bearer <QT_API_TOKEN>`."""

    def check(request: Request) -> None:
        if settings.api_token is None:
            raise HTTPException(403, "mutations are off: set QT_API_TOKEN")
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if not secrets.compare_digest(given.encode(), settings.api_token.get_secret_value().encode()):
            raise HTTPException(401, "send Authorization: Bearer <QT_API_TOKEN>")

    return check
