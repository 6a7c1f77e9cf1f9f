"""Harmless streams of 8-bit queries, most of them many variants of one picture."""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter

from benchmarks.query_attacks.streams import Classify

__all__ = ["BENIGN", "UNRELATED", "Scene", "jpeg"]


@dataclass(frozen=True)
class Scene:
    """What a benign stream is made from.

    Args:
        picture: uint8 ``(3, H, W)``, the picture whose variants are sent.
        photos: uint8 ``(M, 3, H, W)``, other pictures in random order.
        uncertain: uint8 ``(M, 3, H, W)``, those with the lowest margins, in random order.
        classify: the network.
        count: queries of a stream.
        rng: random numbers.
    """

    picture: np.ndarray
    photos: np.ndarray
    uncertain: np.ndarray
    classify: Classify
    count: int
    rng: np.random.Generator


def _clipped(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def jpeg(pixels: np.ndarray, quality: int) -> np.ndarray:
    """``(3, H, W)``, stored as JPEG and read again."""
    return _changed(pixels, lambda image: _reread(image, quality))


def _reread(image: Image.Image, quality: int) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return Image.open(stream)


def _changed(pixels: np.ndarray, change: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    changed = change(Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))))
    return np.ascontiguousarray(np.asarray(changed).transpose(2, 0, 1))


def _blurred(pixels: np.ndarray, sigma: float) -> np.ndarray:
    return _changed(pixels, lambda image: image.filter(ImageFilter.GaussianBlur(sigma)))


def _resized(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    image = torch.from_numpy(np.ascontiguousarray(pixels)).float()[None]
    return _clipped(F.interpolate(image, size, mode="bilinear", antialias=True)[0].numpy())


# --- unrelated pictures


def independent(scene: Scene) -> Iterator[np.ndarray]:
    yield from scene.photos


def uncertain(scene: Scene) -> Iterator[np.ndarray]:
    yield from scene.uncertain


def retries(scene: Scene) -> Iterator[np.ndarray]:
    """Each photo up to four times, equal or recompressed."""
    for photo in scene.photos:
        for _ in range(scene.rng.integers(1, 5)):
            yield photo if scene.rng.random() < 0.5 else jpeg(photo, 90)


def comparison(scene: Scene) -> Iterator[np.ndarray]:
    """40 photos, each with 8 qualities of compression."""
    for photo in scene.photos[:40]:
        for quality in range(60, 100, 5):
            yield jpeg(photo, quality)


# --- variants of one picture


def video(scene: Scene) -> Iterator[np.ndarray]:
    """A window that moves over a picture four times as large, with sensor noise."""
    height, width = scene.picture.shape[1:]
    above = np.concatenate([scene.picture, scene.photos[0]], 2)
    below = np.concatenate([scene.photos[1], scene.photos[2]], 2)
    large = np.concatenate([above, below], 1)
    large = _resized(large, (4 * height, 4 * width))
    speed, place = scene.rng.normal(0, height / 60, 2), scene.rng.uniform(0, 3 * height, 2)
    while True:
        place = np.clip(place + speed, 0, (3 * height, 3 * width))
        speed = np.where((place <= 0) | (place >= 3 * height), -speed, speed)
        i, j = place.astype(int)
        yield _clipped(large[:, i : i + height, j : j + width] + scene.rng.normal(0, 1, scene.picture.shape))


def camera(scene: Scene) -> Iterator[np.ndarray]:
    """A fixed camera: sensor noise, a drift of the brightness, and an object that passes."""
    height, width = scene.picture.shape[1:]
    side, phase = height // 4, scene.rng.uniform(0, 6)
    for frame in range(10_000):
        values = scene.picture * (1 + 0.1 * np.sin(phase + frame / 40)) + scene.rng.normal(0, 2, scene.picture.shape)
        left = frame % 100 * (width + side) // 50 - side
        if left < width:
            values[:, height // 2 : height // 2 + side, max(left, 0) : left + side] = 60
        yield _clipped(values)


def brightness(scene: Scene) -> Iterator[np.ndarray]:
    """Sweeps of brightness, contrast and gamma."""
    third = scene.count // 3 + 1
    values = scene.picture / 255
    for step in np.linspace(-0.5, 0.5, third):
        yield _clipped(255 * (values + step))
    for factor in np.linspace(1.5, 0.1, third):
        yield _clipped(255 * (0.5 + factor * (values - 0.5)))
    for gamma in np.geomspace(0.3, 3, third):
        yield _clipped(255 * values**gamma)


def _crop(scene: Scene, low: float) -> np.ndarray:
    height, width = scene.picture.shape[1:]
    side = scene.rng.uniform(low, 1)
    down, across = int(side * height), int(side * width)
    i, j = scene.rng.integers(0, height - down + 1), scene.rng.integers(0, width - across + 1)
    return _resized(scene.picture[:, i : i + down, j : j + across], (height, width))


def crops(scene: Scene) -> Iterator[np.ndarray]:
    while True:
        yield _crop(scene, 0.6)


def compression(scene: Scene) -> Iterator[np.ndarray]:
    """JPEG of all qualities, at three sizes."""
    height, width = scene.picture.shape[1:]
    for scale in (1.0, 0.75, 0.5):
        small = _resized(scene.picture, (int(scale * height), int(scale * width)))
        for quality in range(100, 0, -1):
            yield _resized(jpeg(small, quality), (height, width))


def augmentation(scene: Scene) -> Iterator[np.ndarray]:
    """Random crops, mirror images and changes of brightness and contrast."""
    while True:
        values = _crop(scene, 0.8).astype(float)
        if scene.rng.random() < 0.5:
            values = values[:, :, ::-1]
        yield _clipped((values - 128) * scene.rng.uniform(0.7, 1.3) + 128 + scene.rng.normal(0, 20))


def occlusion(scene: Scene) -> Iterator[np.ndarray]:
    """A grey square at every place of a grid."""
    height, width = scene.picture.shape[1:]
    side, across = max(2, height // 6), int(np.sqrt(scene.count)) + 1
    for i in np.linspace(0, height - side, across).astype(int):
        for j in np.linspace(0, width - side, across).astype(int):
            hidden = scene.picture.copy()
            hidden[:, i : i + side, j : j + side] = 128
            yield hidden


def lime(scene: Scene) -> Iterator[np.ndarray]:
    """Random segments of an 8 × 8 grid replaced by the mean colour."""
    height, width = scene.picture.shape[1:]
    mean = scene.picture.mean((1, 2), keepdims=True)
    while True:
        mask = np.kron(scene.rng.random((8, 8)) < 0.5, np.ones((height // 8, width // 8), bool))
        yield _clipped(np.where(mask[None], scene.picture, mean))


def rise(scene: Scene) -> Iterator[np.ndarray]:
    """Random smooth masks."""
    height, width = scene.picture.shape[1:]
    while True:
        coarse = torch.from_numpy((scene.rng.random((1, 1, 8, 8)) < 0.5).astype(np.float32))
        mask = F.interpolate(coarse, (height, width), mode="bilinear")[0].numpy()
        yield _clipped(scene.picture * mask)


def smoothing(scene: Scene) -> Iterator[np.ndarray]:
    """Copies with Gaussian noise, as randomised smoothing sends them."""
    deviation = scene.rng.choice([0.01, 0.03, 0.06, 0.12])
    while True:
        yield _clipped(scene.picture + scene.rng.normal(0, 255 * deviation, scene.picture.shape))


def severities(scene: Scene) -> Iterator[np.ndarray]:
    """Seven corruptions, each with rising severity."""
    noise = scene.rng.normal(0, 1, scene.picture.shape)
    for level in np.linspace(0, 1, scene.count // 7 + 1):
        yield _clipped(scene.picture + 60 * level * noise)
    for level in np.linspace(0, 1, scene.count // 7 + 1):
        yield _blurred(scene.picture, 3 * float(level))
    for level in np.linspace(0, 1, scene.count // 7 + 1):
        yield _clipped(scene.picture + 120 * level)
    for level in np.linspace(0, 1, scene.count // 7 + 1):
        yield _clipped(128 + (1 - 0.9 * level) * (scene.picture - 128.0))
    for level in np.linspace(0, 1, scene.count // 7 + 1):
        yield jpeg(scene.picture, int(100 - 95 * level))
    for level in np.linspace(0, 1, scene.count // 7 + 1):
        size = scene.picture.shape[1:]
        small = tuple(max(4, int(side * (1 - 0.8 * level))) for side in size)
        yield _resized(_resized(scene.picture, (small[0], small[1])), (size[0], size[1]))
    for level in np.linspace(0, 1, scene.count // 7 + 1):
        yield _clipped(scene.picture * (1 - 0.7 * level) + 178 * level)


def slider(scene: Scene) -> Iterator[np.ndarray]:
    """The brightness, increased and decreased step by step."""
    place = 0.0
    while True:
        place = float(np.clip(place + scene.rng.normal(0, 0.04), -0.4, 0.4))
        yield _clipped(scene.picture + 255 * place)


def blends(scene: Scene) -> Iterator[np.ndarray]:
    """From one picture to another, and from there to the next."""
    current = scene.picture
    for photo in scene.photos:
        for share in np.linspace(0, 1, 50):
            yield _clipped((1 - share) * current + share * photo)
        current = photo


def ascent(scene: Scene) -> Iterator[np.ndarray]:
    """A random search for a higher confidence."""
    current = scene.picture.astype(float)
    first = scene.classify(scene.picture[None])[0][0]
    label, highest = int(first.argmax()), float(first.max())
    yield scene.picture
    while True:
        tried = _clipped(current + scene.rng.normal(0, 4, current.shape))
        yield tried
        confidence = float(scene.classify(tried[None])[0][0, label])
        if confidence > highest:
            current, highest = tried.astype(float), confidence


def gradient_ascent(scene: Scene) -> Iterator[np.ndarray]:
    """NES towards a higher confidence."""
    current = scene.picture.astype(float)
    label = int(scene.classify(scene.picture[None])[0][0].argmax())
    while True:
        yield _clipped(current)
        directions = scene.rng.normal(0, 2.55, (20, *current.shape))
        probes = _clipped(np.concatenate([current + directions, current - directions]))
        yield from probes
        logs = np.log(np.maximum(scene.classify(probes)[0][:, label], 1e-30))
        gradient = ((logs[:20] - logs[20:])[:, None, None, None] * directions).mean(0)
        current = np.clip(current + 2 * np.sign(gradient), 0, 255)


def probing(scene: Scene) -> Iterator[np.ndarray]:
    """Bisection of the strength of a corruption at which the class changes."""
    yield scene.picture
    label = int(scene.classify(scene.picture[None])[0][0].argmax())
    while True:
        towards = (
            scene.rng.choice(scene.photos)
            if scene.rng.random() < 0.3
            else scene.rng.uniform(0, 255, scene.picture.shape)
        )
        yield from _bisected(scene, scene.picture.astype(float), towards.astype(float), label)


def morphs(scene: Scene) -> Iterator[np.ndarray]:
    """Bisection between two photos."""
    yield scene.picture
    label = int(scene.classify(scene.picture[None])[0][0].argmax())
    for photo in scene.photos:
        yield from _bisected(scene, scene.picture.astype(float), photo.astype(float), label)


def _bisected(scene: Scene, first: np.ndarray, second: np.ndarray, label: int) -> Iterator[np.ndarray]:
    low, high = 0.0, 1.0
    for _ in range(10):
        middle = (low + high) / 2
        tried = _clipped((1 - middle) * first + middle * second)
        yield tried
        if int(scene.classify(tried[None])[0][0].argmax()) == label:
            low = middle
        else:
            high = middle


UNRELATED = ("independent", "uncertain", "retries", "comparison")
BENIGN: dict[str, Callable[[Scene], Iterator[np.ndarray]]] = {
    each.__name__: each
    for each in (
        independent, uncertain, retries, comparison, video, camera, brightness, crops, compression, augmentation,
        occlusion, lime, rise, smoothing, severities, slider, blends, ascent, gradient_ascent, probing, morphs,
    )
}  # fmt: skip
