"""The same HTTP application under Ray Serve: replicas behind Ray's proxy, which replaces those that fail.

`build` is an application builder, for ``serve run`` and for the `import_path` of a config file; docs/deployment.md has
both. Guard, limits and protocols are the application's own. Ray's proxy owns the port, so that the settings of
addresses and connections have no effect here, nor has SIGHUP: a new artifact comes with a new deployment.
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

# Health, status and the page pass while all places for images are taken.
_OTHER_REQUESTS = 64
# What Ray's router may hold besides; more are answered with 503, rather than waiting without bound.
_ROUTER_REQUESTS = 256
_HEALTH_PERIOD_S = 1.0
_HEALTH_TIMEOUT_S = 10.0
_EXPORT_EVERY_S = 5.0


class Arguments(BaseModel):
    """What `build` is told: ``artifact=PATH replicas=2`` after ``serve run``, or `args` of a config file.

    The fields mean what the options of `plumbline serve` mean. A path has to lead to the same folder on every node.

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
    """One process with the models of `arguments`, as Ray Serve wants a deployment's class to be.

    Args:
        arguments: which models.
        settings: limits and what else an operator sets. Without a number of torch threads it is Ray's of CPUs.
    """

    def __init__(self, arguments: Arguments, settings: Settings) -> None:
        self._arguments = arguments
        self._settings = settings
        self._app: FastAPI | None = None
        self._export: asyncio.Task[None] | None = None

    def application(self, settings: Settings) -> FastAPI:
        """The application with `settings`, whose health is this replica's.

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
        """Called by Ray on its event loop, once, for what it shall serve."""
        settings = _with_assigned_threads(self._settings)
        set_up_logging(settings)
        app = self.application(settings)
        self._export = asyncio.get_running_loop().create_task(_export(app.state.metrics), name="plumbline-export")
        return app

    async def check_health(self) -> None:
        """Called by Ray, which replaces a replica that fails this three times in a row.

        A model that is slow for a while is borne: with a replica less, the others would be slower still.

        Raises:
            RuntimeError: a model's thread is dead or hangs for good, or its canary image is judged wrongly.
        """
        assert self._app is not None
        repository: ModelRepository = self._app.state.repository
        if why := repository.failed:
            repository.abandon()
            raise RuntimeError(f"expected models that judge, got one that does not: {why}")
        for model in repository:
            if not model.inference.ready and not model.inference.stalled:
                raise RuntimeError(
                    f"expected the canary image to be judged as at the start, got otherwise: {model.name}"
                )

    def __del__(self) -> None:
        if self._export is not None:
            self._export.cancel()


def build(args: Arguments) -> Any:
    """A Ray Serve application that answers as `plumbline serve` does; settings are those of the environment.

    Raises:
        InputError: Ray is not installed, a setting or a model's name is none, or there are neither keys nor `insecure`.
    """
    settings = read_settings()
    if settings.api_keys_file is None and not settings.insecure:
        raise InputError(
            "expected API keys, since Ray's config decides where is listened, and by itself listens everywhere, got "
            "none; set PLUMBLINE_API_KEYS_FILE, or PLUMBLINE_INSECURE=true if its http_options say host: 127.0.0.1"
        )
    named("artifact:", args.artifact)
    try:
        from ray import serve
    except ImportError as exc:
        raise InputError("expected Ray Serve, which is not installed; pip install 'plumbline[ray]'") from exc
    deployment = serve.deployment(serve.ingress()(Replica), name="plumbline")
    return deployment.options(**deployment_options(args, settings)).bind(args, settings)


def deployment_options(arguments: Arguments, settings: Settings) -> dict[str, Any]:
    """What Ray is told, so that its bounds agree with those of `settings`.

    Ray lets a replica have more requests than it takes images, so that the guard refuses with 429 before Ray queues.
    """
    return {
        "num_replicas": arguments.replicas,
        "max_ongoing_requests": settings.max_queue_images + _OTHER_REQUESTS,
        "max_queued_requests": _ROUTER_REQUESTS,
        "health_check_period_s": _HEALTH_PERIOD_S,
        "health_check_timeout_s": _HEALTH_TIMEOUT_S,
        # Ray waits so long, from telling its proxies that a replica goes, before it looks whether requests are left.
        "graceful_shutdown_wait_loop_s": max(settings.shutdown_grace_s, 0.5),
        "graceful_shutdown_timeout_s": settings.shutdown_grace_s + settings.drain_timeout_s,
        "ray_actor_options": {"num_cpus": 1, "num_gpus": 1 if arguments.device.startswith("cuda") else 0},
    }


def _with_assigned_threads(settings: Settings) -> Settings:
    """The settings, with as many torch threads as Ray has set CPUs aside, where the operator has not said."""
    if "torch_threads" in settings.model_fields_set:
        return settings
    import ray

    cpus = ray.get_runtime_context().get_assigned_resources().get("CPU", 1)
    return settings.model_copy(update={"torch_threads": max(1, int(cpus))})


async def _export(metrics: Metrics) -> None:
    """Hand every figure of `metrics` to Ray's own metrics, again and again; each has `ray_` before its name there.

    All become gauges there, whose values are those of /metrics: Prometheus takes rates and quantiles of them just so.
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
