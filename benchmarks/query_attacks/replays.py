"""Query streams replayed through the recognition: one attack, or one harmless stream."""

import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.query_attacks.benign import BENIGN, Scene
from benchmarks.query_attacks.streams import Answers, Classify, Stream, attack_stream, noisy, shifted
from service.monitoring.queries.descriptors import Query, Sketcher
from service.monitoring.queries.index import QueryIndex
from service.monitoring.queries.scale import QueryScale

__all__ = ["Replay", "Subject", "run_attack", "run_benign"]

MAX_EVASION = 250  # attack queries of a stream with inserted images
TRANSFORMS = {
    "noise": noisy,
    "shift": shifted,
    "shift and noise": lambda pixels, rng: noisy(shifted(pixels, rng), rng),
}


@dataclass(frozen=True)
class Subject:
    """A network with its images.

    Args:
        classify: probabilities, without flags.
        system: network and detector, whose flags the server has; None: there is no detector.
        images: uint8 ``(N, 3, H, W)``.
        labels: their classes.
        margins: log p of the class minus the largest other log p; negative for a wrong class.
        scale: radius and margin scale.
        upload: what happens to every image before the server decodes it.
    """

    classify: Classify
    system: Classify | None
    images: np.ndarray
    labels: np.ndarray
    margins: np.ndarray
    scale: QueryScale
    upload: Callable[[np.ndarray], np.ndarray] | None

    @property
    def server(self) -> Classify:
        """The classifier that answers queries: network and detector, or the network alone."""
        return self.system or self.classify

    def uploaded(self, pixels: np.ndarray) -> np.ndarray:
        """The images after their upload, as the server decodes them."""
        return pixels if self.upload is None else self.upload(pixels)


class Replay:
    """Queries sent to a fresh index, with the number of attack queries at the first alarm.

    Args:
        subject: its scale is used.
        seed: of the secret of the sketches, and of the streams.
    """

    def __init__(self, subject: Subject, seed: int) -> None:
        self.subject, self.seed = subject, seed
        rng = np.random.default_rng([seed, 7])
        self.sketcher = Sketcher(subject.images.shape[1:], rng, subject.scale.margin_scale)

    def queries(self, pixels: np.ndarray) -> list[Query]:
        """One query per image, with the answers of the server."""
        return self.answered(pixels, *self.subject.server(pixels))

    def answered(self, pixels: np.ndarray, probabilities: np.ndarray, flagged: np.ndarray) -> list[Query]:
        """One query per image, with these answers."""
        return self.sketcher.queries(list(pixels), probabilities, flagged.tolist())

    def recorded(self, stream: Stream, classify: Classify) -> list[Query]:
        """The queries of an attack on `classify`, with the answers of the server."""
        if classify is self.subject.server:
            return self.answered(stream.pixels, stream.probabilities, stream.flagged)
        return self.queries(stream.pixels)

    def natural(self, rows: np.ndarray) -> list[Query]:
        """Queries of the subject's images in these rows."""
        parts = (self.subject.images[rows[start : start + 64]] for start in range(0, len(rows), 64))
        return [query for part in parts for query in self.queries(self.subject.uploaded(part))]

    @functools.cached_property
    def photos(self) -> list[Query]:
        """1,100 queries of different images."""
        rows = np.random.default_rng([self.seed, 3]).permutation(len(self.subject.images))
        return self.natural(rows[:1100])

    def run(self, sent: Iterable[tuple[str, Query, bool]]) -> dict[str, Any]:
        """The result of a stream.

        Args:
            sent: key, query, and whether it is part of the attack, in order.
        """
        index = QueryIndex(1 << 28, 1e9)
        attack = 0
        largest = chain = 0
        for number, (key, query, of_attack) in enumerate(sent):
            attack += of_attack
            added = index.add("m", [key], [query], self.subject.scale.radius, at=[float(number)], request_ids=[""])
            [(session, _)] = added
            if session is None:
                continue
            largest, chain = max(largest, session.members), max(chain, session.chain)
            if session.rules:
                rules = sorted(session.rules)
                return {"alarm": attack, "sent": number + 1, "rules": rules, "largest": largest, "chain": chain}
        return {"alarm": None, "sent": attack, "rules": [], "largest": largest, "chain": chain}


def run_attack(replay: Replay, name: str, row: int, *, budget: int, evade: bool) -> dict[str, Any]:
    """The outcome of one attack on image `row`, plain and with evasions."""
    subject, rng = replay.subject, np.random.default_rng([replay.seed, row])
    original, true = subject.images[row], int(subject.labels[row])
    classify = subject.system if name == "system" else subject.classify
    assert classify is not None
    attack_seed = int(rng.integers(2**31))
    others = subject.images[subject.labels != true]
    apart = np.square(others[:, :, ::2, ::2].astype(np.float32) - original[:, ::2, ::2]).sum((1, 2, 3))
    starts = others[np.argsort(apart)[:100]]
    stream = attack_stream(
        name, Answers(classify, budget, rng, subject.upload, starts=starts), original, true, seed=attack_seed
    )  # fmt: skip
    queries = replay.recorded(stream, classify)
    outcome = {
        "attack": name, "row": row, "queries": len(queries), "success": stream.success,
        **lineage(stream.pixels, queries),
        "none": replay.run(("k", query, True) for query in queries),
    }  # fmt: skip
    if not evade:
        return outcome
    for variant, sent in evasions(replay, queries, original, rng).items():
        outcome[variant] = replay.run(sent)
    for variant, transform in TRANSFORMS.items():
        answers = Answers(classify, min(budget, 300), rng, subject.upload, transform, starts)
        moved = attack_stream(name, answers, original, true, seed=attack_seed)
        sent = (("k", query, True) for query in replay.recorded(moved, classify))
        outcome[variant] = {**replay.run(sent), "queries": len(moved.pixels)}
    return outcome


def lineage(pixels: np.ndarray, queries: list[Query]) -> dict[str, float]:
    """Distances of an attack's descriptors, and the agreement of its sketches with its pixels.

    Args:
        pixels: uint8 ``(N, 3, H, W)``.
        queries: their queries.

    Returns:
        `apart`: the 97 % quantile of the distance from a descriptor to the nearest earlier one. `parents`: of every
        16th query, the share for which sketches and pixels give the same nearest one of the 128 queries before it.
    """
    descriptors = np.stack([query.descriptor for query in queries])
    sketches = np.stack([query.sketch for query in queries]).astype(np.float32)
    flat = pixels.reshape(len(pixels), -1)
    nearest = [np.square(descriptors[:t] - descriptors[t]).sum(1).min() ** 0.5 for t in range(1, len(queries))]
    agreed = []
    for t in range(16, len(queries), 16):
        first = max(0, t - 128)
        own = flat[t].astype(np.float32)
        distances = np.array([np.square(other - own).sum() for other in flat[first:t]])
        agreed.append(distances[np.square(sketches[first:t] - sketches[t]).sum(1).argmin()] <= distances.min())
    return {
        "apart": float(np.quantile(nearest, 0.97)) if nearest else 0.0,
        "parents": float(np.mean(agreed)) if agreed else 1.0,
    }


def evasions(
    replay: Replay, queries: list[Query], original: np.ndarray, rng: np.random.Generator
) -> dict[str, Iterator[tuple[str, Query, bool]]]:
    """The attack's queries, sent in other ways."""
    first = queries[0].digest
    some = queries[:MAX_EVASION]
    noise = np.clip(np.rint(original + rng.normal(0, 5, (len(some), *original.shape))), 0, 255).astype(np.uint8)
    copies = replay.queries(replay.subject.uploaded(noise))

    def mixed(others: list[Query], per_query: int) -> Iterator[tuple[str, Query, bool]]:
        place = 0
        for query in some:
            yield "k", query, True
            for _ in range(per_query):
                yield "k", others[place % len(others)], False
                place += 1

    return {
        "without the original": (("k", each, True) for each in queries if each.digest != first),
        "photos 1:1": mixed(replay.photos, 1),
        "photos 1:10": mixed(replay.photos, 10),
        "noisy copies 1:1": mixed(copies, 1),
        "noisy copies of the original, 1 per 3": (
            sent
            for number, query in enumerate(some)
            for sent in ([("k", query, True)] + ([("k", copies[number], False)] if number % 3 == 2 else []))
        ),
        "4 keys": ((f"k{number % 4}", query, True) for number, query in enumerate(queries)),
        "one query per key": ((f"k{number}", query, True) for number, query in enumerate(queries)),
    }


def run_benign(replay: Replay, kind: str, number: int, *, count: int, hard: bool) -> dict[str, Any]:
    """The outcome of one harmless stream."""
    subject = replay.subject
    rng = np.random.default_rng([replay.seed, number, sorted(BENIGN).index(kind)])
    absolute = np.abs(subject.margins)
    limit = np.quantile(absolute, 0.03)
    of_kind = np.flatnonzero(absolute <= limit) if hard else np.flatnonzero(absolute > limit)
    photos = subject.images[rng.permutation(len(subject.images))[:count]]
    low = rng.permutation(np.argsort(absolute)[: max(count, len(absolute) // 20)])
    scene = Scene(
        subject.images[rng.choice(of_kind)], photos, subject.images[low], subject.classify, count, rng
    )  # fmt: skip
    images: list[np.ndarray] = []
    for image in BENIGN[kind](scene):
        images.append(subject.uploaded(image[None])[0])
        if len(images) == count:
            break
    pixels = np.stack(images)
    queries = replay.queries(pixels)
    outcome = replay.run(("k", query, True) for query in queries)
    return {"kind": kind, "number": number, "hard": hard, "queries": len(queries), **outcome}
