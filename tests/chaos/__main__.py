"""`python -m tests.chaos`: every fault against a server process, then a table and JSON results."""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.common import write_result
from models.engines import PRECISIONS, Precision
from tests.chaos.scenarios import SCENARIOS, Chaos, Outcome

__all__ = ["run_all"]


def run_all(
    seed: int,
    names: Sequence[str] = tuple(SCENARIOS),
    out: Path | None = None,
    *,
    engine: str = "torch",
    precision: Precision = "float32",
) -> int:
    """The exit status: 1 if a scenario has a problem or exceeds a limit."""
    outcomes = []
    with tempfile.TemporaryDirectory() as folder:
        chaos = Chaos(Path(folder), seed % 10_000, engine=engine, precision=precision)
        for name in names:
            outcomes.append(_run(name, chaos))
            print(_line(outcomes[-1]), flush=True)
    payload = {
        "n": len(outcomes), "seed": seed, "engine": {"name": engine, "precision": precision},
        "scenarios": [outcome.to_json() for outcome in outcomes],
    }  # fmt: skip
    print(f"\nresults in {write_result('chaos', payload, out)}", flush=True)
    return int(any(outcome.problems or outcome.missed() for outcome in outcomes))


def _run(name: str, chaos: Chaos) -> Outcome:
    try:
        return SCENARIOS[name](chaos)
    except (TimeoutError, AssertionError) as exc:  # the other scenarios still run
        return Outcome(name, problems=[f"not finished: {exc}"])


def _line(outcome: Outcome) -> str:
    figures = ", ".join(
        f"{name} {value:.2f}" if isinstance(value, float) else f"{name} {value}"
        for name, value in outcome.figures.items()
    )
    bars = "; ".join(outcome.missed()) or ("bars met" if outcome.bars else "no bar")
    return "\n    ".join(
        [f"{outcome.name}: {'PROBLEM' if outcome.problems else 'as expected'}; {bars}", figures, *outcome.problems]
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=f"some of: {', '.join(SCENARIOS)} (default: all)")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--out", type=Path, help="write the JSON here instead of to benchmarks/results/chaos.json")
    parser.add_argument("--engine", default="torch", help="from `plumbline list engines`")
    parser.add_argument("--precision", choices=PRECISIONS, default="float32")
    options = parser.parse_args()
    if unknown := set(options.names) - set(SCENARIOS):
        parser.error(f"expected scenarios among {', '.join(SCENARIOS)}, got {', '.join(unknown)}")
    sys.exit(
        run_all(
            options.seed,
            options.names or tuple(SCENARIOS),
            options.out,
            engine=options.engine,
            precision=options.precision,
        )
    )
