"""`plumbline` with the faults of `tests.chaos.poisoned_network` in its engines.

    python -m tests.chaos.poisoned_engine serve ...

A graph cannot hold such faults: they are raised where the server calls the runtime.
"""

import sys

from torch import Tensor

from models.engines.base import Engine
from models.registry import ENGINES
from models.residuals import PooledPass
from service.cli.main import main
from tests.chaos.poisoned_network import obey
from tests.tiny_artifact import MEAN, STD


def _poison(engine: type[Engine]) -> None:
    run = engine.run

    def poisoned(self: Engine, images: Tensor) -> PooledPass:
        obey((images - MEAN[0]) / STD[0])
        return run(self, images)

    engine.run = poisoned  # type: ignore[method-assign]


if __name__ == "__main__":
    for name in ENGINES.names():
        _poison(ENGINES.load(name))
    sys.exit(main())
