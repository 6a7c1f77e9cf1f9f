"""The HTTP application under Ray Serve: replicas behind Ray's proxy, which replaces failed replicas.

`build` is an application builder, for ``serve run`` and for the `import_path` of a config file; see docs/deployment.md.
Ray's proxy owns the port, so the settings of addresses and connections have no effect. SIGHUP has no effect either: a
new artifact needs a new deployment.
"""

import asyncio
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field, field_validator

from models.errors import InputError
from service.http.inference.repository import ModelRepository
from service.http.observability.logs import set_up_logging
from service.http.observability.metrics import Metrics
from service.http.server.app import create_app
from service.http.settings import Settings, read_settings
from service.jobs.serve import model_sources, named

__all__ = ["Arguments", "Replica", "build", "deployment_options"]

# Health, status and the page are available while the capacity for images is exhausted.
_OTHER_REQUESTS = 64
# Limit on further requests in Ray's router; others get a 503.
_ROUTER_REQUESTS = 256
_HEALTH_PERIOD_S = 1.0
_HEALTH_TIMEOUT_S = 10.0
_EXPORT_EVERY_S = 5.0


class Arguments(BaseModel):
    """Arguments of `build`: ``artifact=PATH replicas=2`` after ``serve run``, or `args` of a config file.

    The fields have the meaning of the options of `plumbline serve`. A path must be the same folder on every node.

    Raises:
        pydantic.ValidationError: a field is missing, unknown or out of range.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    artifact: tuple[str, ...] = Field(min_length=1, description="[NAME=]PATH, one or a list")
    network: tuple[str, ...] = Field((), description="[NAME=]PATH.py:CALLABLE, one or a list")
    verify_key: Path | None = None
    device: str = "cpu"
    replicas: int = Field(1, ge=1)

    @field_validator("artifact", "network", mode="before")
    @classmethod
    def _one_or_many(cls, given: Any) -> Any:
        return (given,) if isinstance(given, str) else given


class Replica:
    """One process with the models of `arguments`: the class of a Ray Serve deployment.

    Args:
        arguments: the models.
        settings: limits and options. The default number of torch threads is the number of CPUs that Ray assigns.
    """

    def __init__(self, arguments: Arguments, settings: Settings) -> None:
        self._arguments = arguments
        self._settings = settings
        self._app: FastAPI | None = None
        self._export: asyncio.Task[None] | None = None

    def application(self, settings: Settings) -> FastAPI:
        """The application with `settings`; `check_health` refers to it.

        Raises:
            InputError, ArtifactError: a model cannot be read or served.
        """
        arguments = self._arguments
        sources = model_sources(
            arguments.artifact, arguments.network, device=arguments.device, verify_key=arguments.verify_key
        )
        self._app = create_app(sources, settings)
        return self._app

    def __serve_build_asgi_app__(self) -> FastAPI:
        """The application to serve; Ray calls this once, on its event loop."""
        settings = _with_assigned_threads(self._settings)
        set_up_logging(settings)
        app = self.application(settings)
        self._export = asyncio.get_running_loop().create_task(_export(app.state.metrics), name="plumbline-export")
        return app

    async def check_health(self) -> None:
        """Raise if the replica is unhealthy; Ray replaces it after three failures in a row.

        A stalled model does not count: with fewer replicas the others would be slower still.

        Raises:
            RuntimeError: a model's thread died or is stuck, or its canary image has a wrong verdict.
        """
        assert self._app is not None
        repository: ModelRepository = self._app.state.repository
        if reason := repository.failed:
            repository.abandon()
            raise RuntimeError(f"a model has failed: {reason}")
        for model in repository:
            if not model.inference.ready and not model.inference.stalled:
                raise RuntimeError(f"the canary image of {model.name} has a wrong verdict")

    def __del__(self) -> None:
        if self._export is not None:
            self._export.cancel()


def build(args: Arguments) -> Any:
    """A Ray Serve application with the API of `plumbline serve`; the settings come from the environment.

    Raises:
        InputError: Ray is not installed, a setting or a model's name is invalid, or there are no keys and `insecure`
            is off.
    """
    settings = read_settings()
    if settings.api_keys_file is None and not settings.insecure:
        raise InputError(
            "Ray listens on all addresses by default, and no API keys are configured; set PLUMBLINE_API_KEYS_FILE, or "
            "PLUMBLINE_INSECURE=true if Ray's http_options have host: 127.0.0.1"
        )
    named("artifact:", args.artifact)
    try:
        from ray import serve
    except ImportError as exc:
        raise InputError("Ray Serve is not installed; pip install 'plumbline[ray]'") from exc
    deployment = serve.deployment(serve.ingress()(Replica), name="plumbline")
    return deployment.options(**deployment_options(args, settings)).bind(args, settings)


def deployment_options(arguments: Arguments, settings: Settings) -> dict[str, Any]:
    """Ray's options of the deployment, consistent with `settings`.

    Ray may send a replica more requests than its capacity for images, so that the replica refuses with 429 before Ray
    queues requests.
    """
    return {
        "num_replicas": arguments.replicas,
        "max_ongoing_requests": settings.max_queue_images + _OTHER_REQUESTS,
        "max_queued_requests": _ROUTER_REQUESTS,
        "health_check_period_s": _HEALTH_PERIOD_S,
        "health_check_timeout_s": _HEALTH_TIMEOUT_S,
        # Time between Ray's notice to its proxies and its first check for remaining requests.
        "graceful_shutdown_wait_loop_s": max(settings.shutdown_grace_s, 0.5),
        "graceful_shutdown_timeout_s": settings.shutdown_grace_s + settings.drain_timeout_s,
        "ray_actor_options": {"num_cpus": 1, "num_gpus": 1 if arguments.device.startswith("cuda") else 0},
    }


def _with_assigned_threads(settings: Settings) -> Settings:
    """`settings` with as many torch threads as Ray assigns CPUs, unless the operator sets them."""
    if "torch_threads" in settings.model_fields_set:
        return settings
    import ray

    cpus = ray.get_runtime_context().get_assigned_resources().get("CPU", 1)
    return settings.model_copy(update={"torch_threads": max(1, int(cpus))})


async def _export(metrics: Metrics) -> None:
    """Copy every metric to Ray's metrics, periodically, with the prefix `ray_`.

    All become gauges with the values of /metrics; rates and quantiles in Prometheus work as usual.
    """
    from ray.serve.metrics import Gauge

    gauges: dict[str, Any] = {}
    while True:
        for family in metrics.registry.collect():
            for sample in family.samples:
                if sample.name not in gauges:
                    gauges[sample.name] = Gauge(
                        sample.name, description=family.documentation, tag_keys=tuple(sample.labels)
                    )
                gauges[sample.name].set(sample.value, tags=dict(sample.labels))
        await asyncio.sleep(_EXPORT_EVERY_S)
