"""`plumbline serve`: answer over HTTP with an artifact's verdicts."""

from argparse import Namespace

from detector.artifact import load_artifact
from service.http.server import serve
from service.http.settings import read_settings

__all__ = ["run"]


def run(options: Namespace) -> None:
    """Load the artifact, then serve until a signal comes; nothing is listened on before the artifact is found sound."""
    settings = read_settings(
        host=options.host, port=options.port, api_keys_file=options.keys, insecure=options.insecure
    )
    artifact = load_artifact(
        options.artifact,
        network_file=options.network,
        device=options.device or "cpu",
        verify_key=options.verify_key,
    )
    serve(artifact, settings)
