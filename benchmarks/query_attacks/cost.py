"""Processor time of a query in the recognition of query attacks, and bytes per record, without a network.

    new         a picture that resembles none of the key's last 4,096 queries
    member      a variant of one picture, in a session of such variants
    query       descriptor, sketch and digest of an image

Each time is the minimum of many batches of 32 queries, per query in microseconds. Images are random.
"""

import time
from typing import Any

import numpy as np

from benchmarks.common import arguments, write_result
from service.monitoring.queries.descriptors import Query, Sketcher
from service.monitoring.queries.index import QueryIndex
from service.monitoring.queries.records import MAX_RECORDS
from service.monitoring.queries.scale import FIXED_RADIUS

SIDES = (32, 224)
BATCH = 32
VARIANTS = 512


def main(argv: list[str] | None = None) -> None:
    options = arguments(__doc__, rounds=50).parse_args(argv)
    sides = {str(side): costs(side, options.rounds, options.seed) for side in SIDES}
    print(write_result("query_cost", {"n": MAX_RECORDS, "seed": options.seed, "sides": sides}, options.out))


def costs(side: int, rounds: int, seed: int) -> dict[str, Any]:
    """The figures of images of ``side × side`` pixels."""
    rng = np.random.default_rng(seed)
    sketcher = Sketcher((3, side, side), rng)
    picture = random_picture(rng, side)
    variants = [query for _ in range(VARIANTS // BATCH) for query in sketched(sketcher, [picture] * BATCH, rng)]
    index = QueryIndex(1 << 28, 1e9)
    empty = index.nbytes
    for _ in range(MAX_RECORDS // BATCH):
        add(index, sketched(sketcher, [random_picture(rng, side) for _ in range(BATCH)], rng))
    stored = (index.nbytes - empty) / index.records
    best = dict.fromkeys(("new", "member", "query"), np.inf)
    for number in range(rounds):
        pictures = [random_picture(rng, side) for _ in range(BATCH)]
        others = sketched(sketcher, pictures, rng)
        members = [
            variants[(number * BATCH + place) % VARIANTS]._replace(digest=int(rng.integers(2**62)))
            for place in range(BATCH)
        ]
        for name, queries in (("new", others), ("member", members)):
            begun = time.thread_time()
            add(index, queries)
            best[name] = min(best[name], (time.thread_time() - begun) / BATCH)
        begun = time.thread_time()
        sketcher.queries(pictures, np.full((BATCH, 10), 0.1), [False] * BATCH)
        best["query"] = min(best["query"], (time.thread_time() - begun) / BATCH)
    return {**{name: 1e6 * seconds for name, seconds in best.items()}, "bytes": stored}


def random_picture(rng: np.random.Generator, side: int) -> np.ndarray:
    """Pixels uint8 ``(3, side, side)`` of 4 × 4 random colours."""
    return np.kron(rng.integers(8, 248, (3, 4, 4), np.uint8), np.ones((side // 4, side // 4), np.uint8))


def sketched(sketcher: Sketcher, pictures: list[np.ndarray], rng: np.random.Generator) -> list[Query]:
    """Queries of the pictures with noise and random probabilities."""
    leads = rng.normal(3, 1, len(pictures))
    noise = rng.integers(-3, 4, (len(pictures), *pictures[0].shape), np.int16)
    probabilities = np.stack([np.ones(len(pictures)), np.exp(-leads)], 1) / (1 + np.exp(-leads[:, None]))
    images = list((np.stack(pictures) + noise).astype(np.uint8))
    return sketcher.queries(images, rng.permuted(probabilities, axis=1), (leads < 3).tolist())


def add(index: QueryIndex, queries: list[Query]) -> None:
    """Add queries of one key."""
    count = len(queries)
    for _ in index.add("m", ["k"] * count, queries, FIXED_RADIUS, at=[0.0] * count, request_ids=[""] * count):
        pass


if __name__ == "__main__":
    main()
