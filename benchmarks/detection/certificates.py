"""Certified radii of smoothed networks, with and without noise in training, on the same images.

Each network is certified with each standard deviation of the noise by `plumbline certify`. The figures are shares of
images at several radii; see docs/certify.md.
"""

import argparse
from pathlib import Path
from typing import Any

from benchmarks.common import arguments, write_result
from service.inputs import label
from service.jobs.certify import certify
from service.requests.certify import CertifyRequest
from service.requests.options import ImageOptions


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__)
    parser.add_argument("--networks", nargs="+", required=True)
    parser.add_argument("--dataset", required=True, help="labelled images that the networks were not trained on")
    parser.add_argument("--limit", type=int, default=200, help="images (default: %(default)s)")
    parser.add_argument("--sigmas", type=float, nargs="+", default=[0.06, 0.12, 0.25])
    parser.add_argument("--thresholds", type=float, nargs="+", default=[0.5, 0.8])
    parser.add_argument("--samples", type=int, default=1000, help="noisy copies per image (default: %(default)s)")
    parser.add_argument("--work", type=Path, default=Path("runs/certificates"))
    options = parser.parse_args(argv)
    print(write_result("certificates", measure(options), options.out))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """The figures of every network, noise and threshold; thresholds use the same votes."""
    found = []
    for network in options.networks:
        for sigma in options.sigmas:
            for threshold in options.thresholds:
                request = CertifyRequest(
                    out=options.work / f"{label(network).replace(':', '-')}-{sigma:g}", network=network,
                    images=ImageOptions(dataset=options.dataset, limit=options.limit), sigma=sigma,
                    threshold=threshold, samples=options.samples, seed=options.seed,
                )  # fmt: skip
                result = certify(request)
                print(result.summary(), flush=True)
                kept = {key: result.report[key] for key in ("smoothing", "plain", "without_answer", "certified")}
                found.append({"network": label(network), **kept})
    return {
        "n": options.limit, "seed": options.seed, "dataset": label(options.dataset), "samples": options.samples,
        "systems": found,
    }  # fmt: skip


if __name__ == "__main__":
    main()
