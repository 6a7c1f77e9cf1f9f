"""The routes of the admin port for sessions of similar queries."""

from typing import Any

import orjson
from fastapi import APIRouter, Response

from service.http.errors import HttpError
from service.http.observability.query_watch import QueryWatch
from service.http.schemas.v1 import ErrorResponse

__all__ = ["sessions_router"]

_NO_SESSION: dict[int | str, dict[str, Any]] = {
    404: {"model": ErrorResponse, "description": "there is no session of this name"}
}


def sessions_router(queries: QueryWatch) -> APIRouter:
    """GET /admin/sessions and /admin/sessions/NAME, POST /admin/sessions/NAME/dismiss."""
    router = APIRouter(prefix="/admin/sessions")

    # Functions without `async` run in threads: they wait for the thread of the sessions.
    @router.get("", summary="Sessions of similar queries, those recognised as attacks first")
    def sessions() -> Response:
        return Response(orjson.dumps(queries.sessions()), media_type="application/json")

    @router.get("/{name}", summary="One session", responses=_NO_SESSION)
    def session(name: str) -> Response:
        return _found(name, dismiss=False)

    @router.post("/{name}/dismiss", summary="Raise no further alarm for a session", responses=_NO_SESSION)
    def dismiss(name: str) -> Response:
        return _found(name, dismiss=True)

    def _found(name: str, *, dismiss: bool) -> Response:
        summary = queries.session(name, dismiss=dismiss)
        if summary is None:
            raise HttpError(404, "session_not_found", "no session of this name; GET /admin/sessions has the names")
        return Response(orjson.dumps(summary), media_type="application/json")

    return router
