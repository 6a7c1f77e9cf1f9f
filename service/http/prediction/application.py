"""The ASGI application that owns the prediction routes.

It serves the four paths of `service.http.paths`; FastAPI, whose routing takes longer than all other work on the event
loop, serves the others. Before the body is read, in this order:

    another method than POST           405
    compressed body                    415
    no model in memory                 503
    unknown model or version           404
    inference thread not running       503
    no capacity for one more image     429   with Retry-After; bytes without Content-Length are counted as they arrive
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from service.http.errors import HttpError, ModelNotFoundError, NotReadyError, error_response
from service.http.headers import check_not_encoded, content_length
from service.http.inference.capacity import Ticket
from service.http.inference.model import ServedModel
from service.http.inference.repository import ModelRepository
from service.http.observability.metrics import Metrics
from service.http.observability.served import Observer
from service.http.paths import (
    INFER_PATH,
    INFER_VERSION_PATH,
    MODEL_PREDICT_PATH,
    PREDICT_PATH,
    PredictionPath,
    prediction_path,
)
from service.http.prediction.infer import infer
from service.http.prediction.predict import predict
from service.http.prediction.request import PredictionRequest
from service.http.settings import Settings

__all__ = ["PredictionApplication"]

_HANDLERS: Mapping[str, Callable[[PredictionRequest], Awaitable[Response]]] = {
    PREDICT_PATH: predict,
    MODEL_PREDICT_PATH: predict,
    INFER_PATH: infer,
    INFER_VERSION_PATH: infer,
}


class PredictionApplication:
    """An ASGI application that scores images; every path of a request must be one of `service.http.paths`.

    ``scope["state"]`` gets "route", the template of the path, and "model", the `ServedModel` that scores.

    Args:
        repository: the models.
        settings: the limits.
        metrics: counts images.
        observers: each receives the images with verdicts.
    """

    def __init__(
        self, *, repository: ModelRepository, settings: Settings, metrics: Metrics, observers: Sequence[Observer]
    ) -> None:
        self._repository = repository
        self._settings = settings
        self._metrics = metrics
        self._observers = observers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = prediction_path(scope["path"])
        assert path is not None, scope["path"]
        scope["state"]["route"] = path.template
        if scope["method"] != "POST":
            await error_response(scope, _method_not_allowed(scope))(scope, receive, send)
            return
        check_not_encoded(scope)
        model = self._model(path)
        announced = content_length(scope) or 0
        with model.admit(announced) as ticket:
            scope["state"]["model"] = model
            receive = _reserving(receive, ticket, announced)
            request = PredictionRequest(
                Request(scope, receive), model, ticket, self._settings, self._metrics, self._observers
            )
            response = await _HANDLERS[path.template](request)
            await response(scope, receive, send)

    def _model(self, path: PredictionPath) -> ServedModel:
        if not self._repository.started:
            raise NotReadyError
        model = self._repository.find(path.model, path.version)
        if model is None:
            raise ModelNotFoundError
        return model


def _reserving(receive: Receive, ticket: Ticket, announced: int) -> Receive:
    """`receive` that reserves capacity for the bytes that Content-Length does not announce."""
    reserved, size = announced, 0

    async def receive_and_reserve() -> Message:
        nonlocal reserved, size
        message = await receive()
        size += len(message.get("body", b""))
        if size > reserved:
            ticket.grow(0, size - reserved)
            reserved = size
        return message

    return receive_and_reserve


def _method_not_allowed(scope: Scope) -> HttpError:
    message = f"Method Not Allowed: {scope['method']} {scope['path']}; /docs lists the routes"
    return HttpError(405, "method_not_allowed", message, headers={"Allow": "POST"})
