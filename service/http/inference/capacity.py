"""Limits on the images and bytes that are accepted and not yet answered.

A request reserves capacity from before its body is read until its response is ready. Admitted images therefore always
fit in the queue, and no image is decoded only to be refused.
"""

import threading
from types import TracebackType
from typing import Self

from service.http.errors import OverloadedError

__all__ = ["Capacity", "Ticket"]


class Capacity:
    """Capacity for images and bytes, reserved by tickets; thread-safe.

    Args:
        max_images: maximum number of images in progress.
        max_bytes: maximum number of their bytes, as sent and as decoded.
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
        """Number of reserved images."""
        return self._images

    @property
    def bytes(self) -> int:
        """Number of reserved bytes."""
        return self._bytes

    def admit(self, images: int, size: int) -> "Ticket":
        """A ticket for `images` images and `size` bytes; free it with `release` or as a context manager.

        Raises:
            OverloadedError: the capacity is exhausted.
        """
        ticket = Ticket(self)
        ticket.grow(images, size)
        return ticket

    def _reserve(self, images: int, size: int) -> None:
        with self._lock:
            if self._images + images > self.max_images or self._bytes + size > self.max_bytes:
                raise OverloadedError(
                    f"no capacity for {images} more images and {size} more bytes: {self._images} of "
                    f"{self.max_images} images and {self._bytes} of {self.max_bytes} bytes are in use; try again later"
                )
            self._images += images
            self._bytes += size

    def _free(self, images: int, size: int) -> None:
        with self._lock:
            self._images -= images
            self._bytes -= size
            assert self._images >= 0
            assert self._bytes >= 0


class Ticket:
    """The reservation of one request."""

    def __init__(self, capacity: Capacity) -> None:
        self._capacity = capacity
        self._images = 0
        self._bytes = 0

    def grow(self, images: int, size: int) -> None:
        """Reserve more; after an error the ticket is unchanged.

        Raises:
            OverloadedError: the capacity is exhausted.
        """
        self._capacity._reserve(images, size)
        self._images += images
        self._bytes += size

    def release(self) -> None:
        """Free the reservation; a second call has no effect."""
        images, size = self._images, self._bytes
        self._images = self._bytes = 0
        self._capacity._free(images, size)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, at: TracebackType | None) -> None:
        self.release()
