"""The budget of pixels that threads decode at the same time."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event, Lock, Thread

import numpy as np
import pytest

from models.errors import ImageError
from models.images.budget import PixelBudget
from models.images.decoding import Limits, decode_image
from models.images.preprocessing import Preprocessing
from tests.images import encoded, noise, png_of


def test_threads_never_reserve_more_than_the_budget_except_one_larger_image_alone(rng: np.random.Generator) -> None:
    budget, lock, current, seen = PixelBudget(100), Lock(), list[int](), list[list[int]]()

    def work(pixels: int) -> None:
        with budget.reserved(pixels):
            with lock:
                current.append(pixels)
                seen.append(list(current))
            Event().wait(0.001)
            with lock:
                current.remove(pixels)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, rng.choice([10, 40, 60, 150], 100).tolist()))
    assert all(sum(now) <= 100 or len(now) == 1 for now in seen)
    assert [150] in seen


def test_small_images_share_the_budget() -> None:
    budget, together = PixelBudget(100), Barrier(3)

    def work() -> None:
        with budget.reserved(30):
            together.wait(timeout=60)  # passes only when all three are inside

    threads = [Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not together.broken


def test_a_refused_or_broken_image_gives_its_pixels_back() -> None:
    limits = Limits(max_pixels=256, budget=PixelBudget(256))
    fits = Preprocessing(None, None, 16, 16)
    for data in (png_of(16, 16, stream=b"no zlib stream"), png_of(17, 16), b"text"):
        with pytest.raises(ImageError):
            decode_image(data, fits, limits)
    whole = encoded(noise(np.random.default_rng(0)))
    assert decode_image(whole, fits, limits).shape == (3, 16, 16)  # would wait for ever
