"""`plumbline serve`: answer over HTTP with the verdicts of one or several artifacts."""

import functools
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from detector.artifact import load_artifact
from models.errors import InputError
from models.memory import keep_freed_memory
from service.http.connection.reload_signal import ReloadSignal
from service.http.inference.repository import ModelSource
from service.http.paths import is_model_name
from service.http.server.run import serve
from service.http.settings import read_settings

__all__ = ["model_sources", "named", "run"]


def run(options: Namespace, reload_signal: ReloadSignal | None = None) -> None:
    """Load the artifacts, then serve until a signal comes; nothing is listened on before all are found sound.

    Args:
        options: of the command line.
        reload_signal: where SIGHUP is noted meanwhile.
    """
    settings = read_settings(
        host=options.host,
        port=options.port,
        admin_host=options.admin_host,
        admin_port=options.admin_port,
        api_keys_file=options.keys,
        admin_keys_file=options.admin_keys,
        insecure=options.insecure,
        examples=options.examples,
    )
    models = model_sources(
        options.artifact, options.network or [], device=options.device or "cpu", verify_key=options.verify_key
    )
    serve(models, settings, reload_signal=reload_signal)


def model_sources(
    artifacts: Sequence[str], networks: Sequence[str], *, device: str, verify_key: Path | None
) -> dict[str, ModelSource]:
    """Models by name, each read and found sound, of texts as `--artifact` and `--network` take them.

    Raises:
        InputError: two of one name, a network for none of them, or an artifact that is refused.
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
    """Paths by name, of texts PATH or NAME=PATH; a path without a name is called as its last part.

    Raises:
        InputError: two of one name, or a last part that cannot be a name.
    """
    found: dict[str, str] = {}
    for text in given:
        name, equals, path = text.partition("=")
        if not equals or Path(text).exists():
            name, path = Path(text).resolve().name, text
            if not is_model_name(name):
                raise InputError(
                    f"expected a path whose last part can name a model, got {text}; say {option} NAME={text}"
                )
        if name in found:
            raise InputError(f"expected models of different names, got {name!r} twice; say {option} NAME=PATH")
        found[name] = path
    return found


def _network_files(given: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    """The file of each network that needs one, by the model's name; without a name it is the only model's."""
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
