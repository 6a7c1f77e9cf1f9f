"""GET /v2/health/live and /v2/health/ready, for load balancers and supervisors."""

import orjson
from fastapi import APIRouter, Response

from service.http.errors import NotReadyError
from service.http.inference.repository import ModelRepository
from service.http.schemas.v1 import Live, Ready

__all__ = ["health_router"]


def health_router(repository: ModelRepository) -> APIRouter:
    """A router with the two health routes; both also accept HEAD, which some proxies send."""
    router = APIRouter()

    @router.head("/v2/health/live", include_in_schema=False)
    @router.get("/v2/health/live", summary="Whether the process works", responses={200: {"model": Live}})
    async def live() -> Response:
        if repository.failed:  # the details are for the admin port
            return _json(
                503, live=False, ready=False, error="an inference thread died or is stuck; restart the process"
            )
        return _json(200, live=True, ready=repository.ready)

    @router.head("/v2/health/ready", include_in_schema=False)
    @router.get("/v2/health/ready", summary="Whether to send requests here", responses={200: {"model": Ready}})
    async def ready() -> Response:
        if not repository.ready:
            return _json(503, live=not repository.failed, ready=False, error=NotReadyError().message)
        return _json(200, live=True, ready=True)

    return router


def _json(status: int, **fields: bool | str) -> Response:
    return Response(orjson.dumps(fields), status, media_type="application/json")
