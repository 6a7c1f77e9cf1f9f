"""Processor time of a query in the recognition of query attacks, and bytes per record, without a network.

    new         a picture that resembles none of the key's last 4,096 queries
    member      a variant of one picture, in a session of such variants
    query       descriptor, sketch and digest of an image

Each time is the minimum of many batches of 64 queries, per query in microseconds. Images are random.
"""

import time
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.common import arguments, write_result
from service.monitoring.queries.descriptors import Query, Sketcher
from service.monitoring.queries.index import QueryIndex
from service.monitoring.queries.records import MAX_RECORDS
from service.monitoring.queries.scale import QueryScale

SIDES = (32, 224)
BATCH = 64
VARIANTS = 512


def main(argv: list[str] | None = None) -> None:
    options = arguments(__doc__, rounds=50).parse_args(argv)
    sides = {str(side): costs(side, options.rounds, options.seed) for side in SIDES}
    print(write_result("query_cost", {"n": MAX_RECORDS, "seed": options.seed, "sides": sides}, options.out))


def costs(side: int, rounds: int, seed: int) -> dict[str, Any]:
    """The figures of images of ``side × side`` pixels."""
    rng = np.random.default_rng(seed)
    sketcher, scale = Sketcher((3, side, side), rng), QueryScale()
    picture = random_picture(rng, side)
    variants = [variant_of(sketcher, picture, rng) for _ in range(VARIANTS)]
    index = QueryIndex(1 << 28, 1e9)
    empty = index.nbytes
    for number in range(MAX_RECORDS):
        index.add("m", "k", variant_of(sketcher, random_picture(rng, side), rng), scale, at=float(number))
    stored = (index.nbytes - empty) / index.records
    best = dict.fromkeys(("new", "member", "query"), np.inf)
    for number in range(rounds):
        others = [variant_of(sketcher, random_picture(rng, side), rng) for _ in range(BATCH)]
        members = [
            replace(variants[(number * BATCH + place) % VARIANTS], digest=int(rng.integers(2**62)))
            for place in range(BATCH)
        ]
        for name, queries in (("new", others), ("member", members)):
            begun = time.thread_time()
            for query in queries:
                index.add("m", "k", query, scale, at=1e6)
            best[name] = min(best[name], (time.thread_time() - begun) / BATCH)
        begun = time.thread_time()
        for _ in range(BATCH):
            sketcher.query(picture, np.full(10, 0.1), flagged=False)
        best["query"] = min(best["query"], (time.thread_time() - begun) / BATCH)
    return {**{name: 1e6 * seconds for name, seconds in best.items()}, "bytes": stored}


def random_picture(rng: np.random.Generator, side: int) -> np.ndarray:
    """Pixels uint8 ``(3, side, side)`` of 4 × 4 random colours."""
    return np.kron(rng.integers(8, 248, (3, 4, 4), np.uint8), np.ones((side // 4, side // 4), np.uint8))


def variant_of(sketcher: Sketcher, picture: np.ndarray, rng: np.random.Generator) -> Query:
    """A query of the picture with noise and random log-probabilities."""
    lead = rng.normal(3, 1)
    probabilities = np.array([1.0, np.exp(-lead)]) / (1 + np.exp(-lead))
    noise = rng.integers(-3, 4, picture.shape, np.int16)
    return sketcher.query((picture + noise).astype(np.uint8), probabilities[rng.permutation(2)], flagged=lead < 3)


if __name__ == "__main__":
    main()
