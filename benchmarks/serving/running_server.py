"""An ASGI application in a thread of this process, on a free loopback port."""

import threading
import time

import uvicorn
from starlette.types import ASGIApp

__all__ = ["RunningServer"]

_POLL_S = 0.02
_LAST_REQUESTS_S = 5


class RunningServer:
    """A server that answers at `address` until `stop`.

    Raises:
        RuntimeError: the server ended during its start.
    """

    def __init__(self, app: ASGIApp) -> None:
        config = uvicorn.Config(
            app, port=0, ws="none", lifespan="on", log_config=None, timeout_graceful_shutdown=_LAST_REQUESTS_S
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run)
        self._thread.start()
        while not self._server.started:
            if not self._thread.is_alive():
                raise RuntimeError("the server ended during its start; see its log")
            time.sleep(_POLL_S)
        self.port: int = self._server.servers[0].sockets[0].getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}/"

    def stop(self) -> None:
        """Answer the requests in flight and end."""
        self._server.should_exit = True
        self._thread.join()
