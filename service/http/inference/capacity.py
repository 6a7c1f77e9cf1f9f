"""How much work the server takes on: a bound on images and on bytes that are accepted and not yet answered.

One bound covers a request's whole stay, from before its body is read until its answer is ready: what is admitted always
finds room in the queue, so nothing is decoded only to be turned away.
"""

import threading
from types import TracebackType
from typing import Self

from service.http.errors import OverloadedError

__all__ = ["Capacity", "Ticket"]


class Capacity:
    """Hands out tickets for images and bytes, up to the two bounds; safe to use from many threads.

    Args:
        max_images: images in the house.
        max_bytes: bytes in the house, as sent and as decoded.
    """

    def __init__(self, max_images: int, max_bytes: int) -> None:
        assert max_images >= 1
        assert max_bytes >= 1
        self.max_images = max_images
        self.max_bytes = max_bytes
        self._images = 0
        self._bytes = 0
        self._lock = threading.Lock()

    @property
    def images(self) -> int:
        """Images in the house."""
        return self._images

    @property
    def bytes(self) -> int:
        """Bytes in the house."""
        return self._bytes

    def admit(self, images: int, size: int) -> "Ticket":
        """A ticket for `images` images and `size` bytes; give it back with `release` or as a context manager.

        Raises:
            OverloadedError: there is no room now.
        """
        ticket = Ticket(self)
        ticket.grow(images, size)
        return ticket

    def _take(self, images: int, size: int) -> None:
        with self._lock:
            if self._images + images > self.max_images or self._bytes + size > self.max_bytes:
                raise OverloadedError(
                    f"expected room for {images} more images and {size} more bytes, got {self._images} of "
                    f"{self.max_images} images and {self._bytes} of {self.max_bytes} bytes in use; try again later"
                )
            self._images += images
            self._bytes += size

    def _give_back(self, images: int, size: int) -> None:
        with self._lock:
            self._images -= images
            self._bytes -= size
            assert self._images >= 0
            assert self._bytes >= 0


class Ticket:
    """One request's share of the bounds."""

    def __init__(self, capacity: Capacity) -> None:
        self._capacity = capacity
        self._images = 0
        self._bytes = 0

    def grow(self, images: int, size: int) -> None:
        """Take more; on refusal the ticket keeps what it had.

        Raises:
            OverloadedError: there is no room now.
        """
        self._capacity._take(images, size)
        self._images += images
        self._bytes += size

    def release(self) -> None:
        """Give everything back; a second call changes nothing."""
        images, size = self._images, self._bytes
        self._images = self._bytes = 0
        self._capacity._give_back(images, size)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, at: TracebackType | None) -> None:
        self.release()
