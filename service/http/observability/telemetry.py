"""OpenTelemetry, where its packages are installed and an operator asks for it.

One span per request, in the trace that the client's ``traceparent`` names. Where spans go is the SDK's business: run
the server under ``opentelemetry-instrument``, or set up a tracer provider before it starts; without one, spans cost
little and go nowhere.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from typing import Any

from starlette.types import Scope

from models.errors import InputError
from service.http.errors import ClientGoneError
from service.http.paths import image_route

__all__ = ["request_span"]

_LONGEST_PATH = 256  # clients invent paths; what is paid for by the byte shall not be theirs to fill


def request_span() -> Callable[[Scope], AbstractContextManager[Any]]:
    """A context manager around a request, given its ASGI scope.

    Raises:
        InputError: OpenTelemetry is not installed.
    """
    try:
        propagate, trace = import_module("opentelemetry.propagate"), import_module("opentelemetry.trace")
    except ImportError as exc:
        raise InputError(
            "expected the packages of OpenTelemetry for telemetry, got none installed; "
            "install plumbline with its extra `telemetry`, or leave the setting out"
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
            attributes={"http.request.method": scope["method"], "url.path": scope["path"][:_LONGEST_PATH]},
        ) as current:
            try:
                yield
            except ClientGoneError as exc:  # raised again outside, since the span would take it for a failure
                gone = exc
                scope.setdefault("state", {})["status"] = 499
            finally:
                image = image_route(scope["path"]) if scope["method"] == "POST" else None  # these pass the router by
                route = image.template if image else getattr(scope.get("route"), "path", None)
                if route is not None:
                    current.update_name(f"{scope['method']} {route}")
                    current.set_attribute("http.route", route)
                state = scope.get("state", {})
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
