"""`plumbline serve`: serve verdicts of one or several artifacts over HTTP."""

import functools
from collections.abc import Sequence
from pathlib import Path

from detector.artifact import load_artifact
from models.batching import memory_limited
from models.errors import InputError
from models.memory import keep_freed_memory
from service.http.connection.reload_signal import ReloadSignal
from service.http.inference.model import ModelSource
from service.http.paths import is_model_name
from service.http.server.run import serve
from service.http.settings import read_settings
from service.requests.serving import ServeRequest

__all__ = ["model_sources", "named", "serve_artifacts"]


def serve_artifacts(request: ServeRequest, reload_signal: ReloadSignal | None = None) -> None:
    """Load the artifacts, then serve until a signal stops the server. It listens once all artifacts are verified.

    Args:
        request: artifacts and addresses.
        reload_signal: records a SIGHUP that arrives meanwhile.

    Raises:
        InputError: settings that cannot be used.
        ArtifactError: an artifact that is refused.
    """
    settings = read_settings(
        host=request.host, port=request.port, admin_host=request.admin_host, admin_port=request.admin_port,
        api_keys_file=request.keys, admin_keys_file=request.admin_keys, insecure=request.insecure,
        examples=request.examples, state=request.state, max_pixels=request.max_pixels, store=request.store,
        keep_flagged=request.keep_flagged, sample_for_review=request.sample_for_review,
        review_keys_file=request.review_keys,
        sessions_bytes=request.sessions_bytes,
    )  # fmt: skip
    models = model_sources(request.artifact, request.network, device=request.device, verify_key=request.verify_key)
    with memory_limited(request.memory, processes=len(models)):
        serve(models, settings, reload_signal=reload_signal)


def model_sources(
    artifacts: Sequence[str], networks: Sequence[str], *, device: str, verify_key: Path | None
) -> dict[str, ModelSource]:
    """Verified models by name, from texts as `--artifact` and `--network` take them.

    Args:
        artifacts: each ``[NAME=]PATH``.
        networks: each ``[NAME=]PATH.py:CALLABLE``.
        device: of the forward passes.
        verify_key: file of the secret that signed the artifacts; None: signatures are not checked.

    Raises:
        InputError: two models of one name, or a network for no model.
        ArtifactError: an artifact that is refused.
    """
    keep_freed_memory()
    folders = named("--artifact", artifacts)
    files = _network_files(networks, list(folders))
    models = {}
    for name, folder in folders.items():
        load = functools.partial(
            load_artifact, Path(folder), network_file=files.get(name), device=device, verify_key=verify_key
        )
        models[name] = ModelSource(load(), load)
    return models


def named(option: str, given: Sequence[str]) -> dict[str, str]:
    """Paths by name, from texts PATH or NAME=PATH; the last part of a path is its default name.

    Raises:
        InputError: two paths of one name, or a last part that is not a valid name.
    """
    paths: dict[str, str] = {}
    for text in given:
        name, equals, path = text.partition("=")
        if not equals or Path(text).exists():
            name, path = Path(text).resolve().name, text
            if not is_model_name(name):
                raise InputError(
                    f"expected a path whose last part is a valid model name, got {text}; give {option} NAME={text}"
                )
        if name in paths:
            raise InputError(f"expected models of different names, got {name!r} twice; give {option} NAME=PATH")
        paths[name] = path
    return paths


def _network_files(given: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    """The file of each network that needs one, by the name of the model; the name may be omitted for one model."""
    files: dict[str, str] = {}
    for text in given:
        name, equals, file = text.partition("=")
        if not equals and len(names) == 1:
            name, file = names[0], text
        if name not in names or name in files:
            raise InputError(
                f"expected --network NAME=PATH.py:CALLABLE for one of {', '.join(names)}, each once, got {text!r}"
            )
        files[name] = file
    return files
