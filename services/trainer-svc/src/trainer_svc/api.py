"""HTTP of trainer-svc: what runs and why, ask for a training, cancel it."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException
from pydantic import BaseModel, StringConstraints

from quantum_common.service import FleetSettings, require_token
from trainer_svc.core import Due, Reason
from trainer_svc.errors import AlreadyRunning
from trainer_svc.renewal import Renewal
from trainer_svc.trainings import Trainings


class RunRequest(BaseModel):
    """Why a person wants a training."""

    reason: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]
    meta_only: bool = False


def router(settings: FleetSettings, trainings: Trainings, renewal: Renewal) -> APIRouter:
    """Routes under /api/training."""
    routes = APIRouter(prefix="/api/training", tags=["training"])
    guard = [Depends(require_token(settings))]

    @routes.get("/status")
    async def status() -> dict[str, Any]:
        """The training that runs, the newest that ended, and the live figures that decide about the next one."""
        return {**trainings.document(), **renewal.document()}

    @routes.post("/run", dependencies=guard, status_code=202)
    async def run(request: RunRequest) -> dict[str, Any]:
        """Start a training; 409 while one runs."""
        try:
            started = trainings.start(Due(Reason.MANUAL, request.reason, request.meta_only))
        except AlreadyRunning as error:
            raise HTTPException(409, str(error)) from error
        return {"run_id": started.run_id}

    @routes.post("/cancel", dependencies=guard)
    async def cancel() -> dict[str, bool]:
        """End the training that runs; what serves stays. Answers when it has ended."""
        return {"cancelled": await trainings.cancel()}

    return routes
