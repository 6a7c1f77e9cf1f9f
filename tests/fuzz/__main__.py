"""`python -m tests.fuzz`: hostile input and faults for a limited time, then a table and JSON results.

    raw sockets      requests that no client would send
    damaged images   the corpus, mutated; every answer compared with the bare pipeline
    schemathesis     all checks on the OpenAPI documents of both ports
    chaos            `tests.chaos`: a poisoned, hanging or dying network, storms of clients, signals under load

After every part the server must return the same verdicts, must not have grown, and must have logged no traceback.
The status is 1 where anything is wrong. One seed repeats one run but for the order in which answers come.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.common import write_result
from models.engines import PRECISIONS
from tests.chaos.__main__ import run_all as run_chaos
from tests.fuzz.health import MOST_DESCRIPTORS, MOST_GROWTH_BYTES, Health, Reference
from tests.fuzz.parts import Part, images, openapi, raw
from tests.fuzz.process import serving
from tests.tiny_artifact import save_tiny_artifact


def main() -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=180, help="for the fuzzing; chaos takes a minute or two more")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="repeats a run (default: the clock)")
    parser.add_argument("--out", type=Path, help="write the JSON here instead of to benchmarks/results/fuzz.json")
    parser.add_argument("--without-chaos", action="store_true")
    parser.add_argument("--engine", default="torch", help="from `plumbline list engines`")
    parser.add_argument("--precision", choices=PRECISIONS, default="float32")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        artifact = save_tiny_artifact(
            Path(folder) / "tiny", options.seed % 10_000, engine=options.engine, precision=options.precision
        )
        parts = fuzz(artifact, options.seed, options.seconds)
    out = write_result(
        "fuzz",
        {
            "n": sum(part.cases for part in parts),
            "seed": options.seed,
            "engine": {"name": options.engine, "precision": options.precision},
            "bounds": {"resident_bytes": MOST_GROWTH_BYTES, "descriptors": MOST_DESCRIPTORS},
            "parts": [part.to_json() for part in parts],
        },
        options.out,
    )
    print(f"\n{'part':<30}{'cases':>8}{'seconds':>9}{'problems':>10}")
    for part in parts:
        print(f"{part.name:<30}{part.cases:>8}{part.seconds:>9.0f}{part.counts['problems']:>10}")
    for part in parts:
        for problem in part.problems:
            print(f"\n{part.name}: {problem}")
    print(f"\nfigures in {out}", flush=True)
    failed = any(part.problems for part in parts)
    if not options.without_chaos:
        failed |= run_chaos(options.seed, engine=options.engine, precision=options.precision) != 0
    return int(failed)


def fuzz(artifact: Path, seed: int, seconds: float, *, cases: int = sys.maxsize, short: bool = False) -> list[Part]:
    """The result of every part, each followed by a check of the server's health.

    Args:
        seconds: of all parts in total.
        cases: maximum number of cases of each part except schemathesis.
        short: whether schemathesis sends a few cases only, to the main port only.
    """
    rng = np.random.default_rng(seed)
    reference = Reference(artifact)
    share = seconds / 4
    parts: list[Part] = []
    # Short timeouts, so that incomplete requests end within the run. No canary, whose images would be counted.
    with serving(artifact, header_timeout_s=2, receive_timeout_s=2, receive_grace_s=2, canary_interval_s=0) as server:
        health = Health(server, reference, rng)

        def add(part: Part) -> None:
            parts.append(part)
            for problem in health.problems():
                part.problem(problem)
            part.counts["resident bytes grown"] = health.grown_bytes()
            part.counts["descriptors grown"] = health.grown_descriptors()

        add(raw(server, rng, health.good, seconds=share, cases=cases))
        add(images(server, reference, rng, seconds=share, cases=cases))
        add(openapi(server, seed, seconds=1.5 * share, short=short))
        if not short:
            add(openapi(server, seed, seconds=0.5 * share, port=server.admin_port, name=", second port"))
    return parts


if __name__ == "__main__":
    sys.exit(main())
