"""Runs every benchmark that needs no data: `make bench`. Each writes benchmarks/results/<name>.json.

A machine that does something else measures that too: leave it alone meanwhile. What needs real images is run by name:
`python -m benchmarks.detection.real_images RECIPE`, `python -m benchmarks.speed.white_box --dataset D`, likewise
`black_box` (see benchmarks/README.md).
"""

import subprocess
import sys
import time

# In this order, each in a process of its own, so that none measures another's caches, threads or memory.
BENCHMARKS = (["speed.extraction", "--compile"], ["speed.scaling"], ["speed.forests"], ["serving.throughput"])


def main() -> None:
    """Run them all, one after the other; the first that fails ends the run."""
    for number, (name, *options) in enumerate(BENCHMARKS, start=1):
        print(f"[{number}/{len(BENCHMARKS)}] benchmarks.{name}", flush=True)
        started = time.monotonic()
        done = subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *options], check=False)
        if done.returncode:
            raise SystemExit(f"benchmarks.{name} failed with status {done.returncode}")
        print(f"    {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
