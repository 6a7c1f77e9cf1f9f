"""Checks that a model's images fit the server's limits."""

from detector.artifact import Artifact
from models.errors import InputError
from service.http.settings import Settings

__all__ = ["check_limits"]


def check_limits(name: str, artifact: Artifact, settings: Settings) -> None:
    """Check that the largest allowed request for the model `name` can be accepted.

    Raises:
        InputError: a limit is too low for the model's image size.
    """
    image_bytes = artifact.preprocessing.num_bytes
    pixels = artifact.preprocessing.height * artifact.preprocessing.width
    if pixels > settings.max_pixels:
        raise InputError(
            f"expected max_pixels of at least {pixels} for {name}, the size of its images, got {settings.max_pixels}; "
            "raise max_pixels"
        )
    largest = settings.max_body_bytes + settings.max_images_per_request * image_bytes
    if largest > settings.max_queue_bytes:
        raise InputError(
            f"expected max_queue_bytes of at least {largest} for {name}: one request of {settings.max_body_bytes} "
            f"bytes with {settings.max_images_per_request} images of {image_bytes} bytes, got "
            f"{settings.max_queue_bytes}; raise it, or lower max_body_bytes or max_images_per_request"
        )
