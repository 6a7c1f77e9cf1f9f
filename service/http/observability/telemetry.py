"""OpenTelemetry traces, if the setting `telemetry` is on.

One span per request, in the trace of the client's ``traceparent``. The SDK exports the spans: run the server under
``opentelemetry-instrument``, or set up a tracer provider before the start. Without one, spans are dropped.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from typing import Any

from starlette.types import Scope

from models.errors import InputError
from service.http.errors import ClientGoneError
from service.http.paths import prediction_path

__all__ = ["request_span"]

_MAX_PATH_LENGTH = 256  # clients can invent long paths, and storage of spans costs money


def request_span() -> Callable[[Scope], AbstractContextManager[Any]]:
    """A context manager around a request, as a function of its ASGI scope.

    Raises:
        InputError: OpenTelemetry is not installed.
    """
    try:
        propagate, trace = import_module("opentelemetry.propagate"), import_module("opentelemetry.trace")
    except ImportError as exc:
        raise InputError(
            "the setting telemetry needs OpenTelemetry, which is not installed; "
            "install plumbline[telemetry], or turn the setting off"
        ) from exc
    tracer = trace.get_tracer("plumbline")

    @contextmanager
    def span(scope: Scope) -> Iterator[None]:
        gone: ClientGoneError | None = None
        carrier = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        with tracer.start_as_current_span(
            f"{scope['method']} request",
            context=propagate.extract(carrier),
            kind=trace.SpanKind.SERVER,
            attributes={"http.request.method": scope["method"], "url.path": scope["path"][:_MAX_PATH_LENGTH]},
        ) as current:
            try:
                yield
            except ClientGoneError as exc:  # raised again outside the span, which would record it as an error
                gone = exc
                scope.setdefault("state", {})["status"] = 499
            finally:
                # A request that is refused early has a path, but no route yet.
                prediction = prediction_path(scope["path"])
                route = prediction.template if prediction else getattr(scope.get("route"), "path", None)
                state = scope.get("state", {})
                if route is not None:
                    current.update_name(f"{scope['method']} {route}")
                    current.set_attribute("http.route", route)
                current.set_attribute("plumbline.request_id", state.get("request_id", ""))
                if (model := state.get("model")) is not None:
                    current.set_attribute("plumbline.model", model.name)
                    current.set_attribute("plumbline.version", model.version)
                if "status" in state:
                    current.set_attribute("http.response.status_code", state["status"])
                    if state["status"] >= 500:
                        current.set_status(trace.StatusCode.ERROR)
        if gone is not None:
            raise gone

    return span
