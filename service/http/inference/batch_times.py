"""Expected duration of a batch, and the durations from which it counts as stalled or stuck."""

from dataclasses import dataclass

__all__ = ["BatchTimes"]

# A batch counts as stalled after this multiple of its expected duration, at least after this number of seconds, and
# before this share of the timeout that ends the process, unless its expected duration is longer.
_STALLED_FACTOR = 10.0
_MIN_STALLED_S = 0.5
_STALLED_SHARE_OF_HANG = 0.5
_SLOW_FACTOR = 2.0


@dataclass(frozen=True)
class BatchTimes:
    """Limits on the duration of a batch, in seconds.

    Args:
        one: measured duration of a batch of one image.
        largest: measured duration of a batch of `max_batch_size` images.
        max_batch_size: see `largest`.
        hang_timeout_s: a batch that takes longer counts as stuck, unless it is expected to take long.
    """

    one: float
    largest: float
    max_batch_size: int
    hang_timeout_s: float

    def stalled_after_s(self, size: int) -> float:
        """Seconds after which a batch of `size` images takes suspiciously long."""
        share = (size - 1) / max(1, self.max_batch_size - 1)
        expected = self.one + share * max(0.0, self.largest - self.one)
        most = max(_STALLED_SHARE_OF_HANG * self.hang_timeout_s, _SLOW_FACTOR * expected)
        return min(max(_MIN_STALLED_S, _STALLED_FACTOR * expected), most)

    def stuck_after_s(self, size: int) -> float:
        """Seconds after which a batch of `size` images is a reason to end the process."""
        return max(self.hang_timeout_s, self.stalled_after_s(size) / _STALLED_SHARE_OF_HANG)
