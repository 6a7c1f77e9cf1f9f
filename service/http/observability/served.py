"""The verdicts of one request, as the threads that work after the response receive them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from detector.artifact import Artifact
from detector.pipeline import Verdict

__all__ = ["Observer", "ServedImages"]


@dataclass(frozen=True, eq=False)
class ServedImages:
    """The images of one request that have verdicts, at least one, without their pixels.

    Args:
        time: Unix time in seconds.
        model: name of the model.
        artifact: of the version that scored the images.
        request_id: from the client if it sent one, so not unique.
        key: name of the API key; None: the server has no keys.
        indices: place of each image in the request.
        verdicts: one per image.
        client: address of the peer; behind a proxy, that of the proxy.
        sessions: name of the query session of each image, None without one; empty until `QueryWatch` has filled it.
        repeated: whether each image equals or resembles an earlier one of its key; filled before `sessions`.
    """

    time: float
    model: str
    artifact: Artifact
    request_id: str
    key: str | None
    indices: Sequence[int]
    verdicts: Sequence[Verdict]
    client: str = ""
    sessions: list[str | None] = field(default_factory=list)
    repeated: list[bool] = field(default_factory=list)


# Called on the event loop before the response is sent: it queues the images, and returns at once. The second argument
# has the pixels of each image, uint8 (3, H, W) as the network took them.
Observer = Callable[[ServedImages, Sequence[np.ndarray]], None]
