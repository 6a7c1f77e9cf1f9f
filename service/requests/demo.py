"""The request of `plumbline demo`."""

from dataclasses import dataclass
from pathlib import Path

from service.requests.options import Flag, Seed, Whole

__all__ = ["DemoRequest"]


@dataclass(frozen=True, kw_only=True)
class DemoRequest:
    """Fit, attack, evaluate and draw on bundled images; finish with a command that serves the result.

    Args:
        serve: serve the artifact afterwards.
        port: port to serve on.
        out: folder of everything that is written.
        seed: seed of the split and the attacks.
    """

    serve: Flag = False
    port: Whole = 8000
    out: Path = Path("demo")
    seed: Seed = 0
