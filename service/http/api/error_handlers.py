"""Errors of the framework in the JSON form of all errors."""

from typing import cast

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from service.http.errors import HttpError, error_code, error_response

__all__ = ["add_error_handlers"]


def add_error_handlers(app: FastAPI) -> None:
    """Convert the errors that FastAPI and Starlette raise, such as 404 and 405."""
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _validation_error)


async def _http_error(request: Request, exc: Exception) -> Response:
    error = cast(HTTPException, exc)
    message = f"{error.detail}: {request.method} {request.url.path}; /docs lists the routes"
    code = error_code(error.status_code)
    return error_response(request.scope, HttpError(error.status_code, code, message, headers=error.headers))


async def _validation_error(request: Request, exc: Exception) -> Response:
    problems = cast(RequestValidationError, exc).errors()
    details = "; ".join(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in problems)
    return error_response(request.scope, HttpError(422, "invalid_request", f"invalid parameters: {details}"))
