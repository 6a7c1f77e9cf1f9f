"""The commands: each turns a typed request into a job and prints its result.

A command imports its job when it runs, so that `--help` and `list` do not import torch.
"""

import gc
import json
import shlex
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from models.errors import InputError
from models.registry import ATTACKS, DATASETS, DETECTORS, ENGINES, NETWORKS, OBJECTIVES
from service.requests.attack import AttackRequest
from service.requests.calibrate import CalibrateRequest
from service.requests.certify import CertifyRequest
from service.requests.demo import DemoRequest
from service.requests.evaluate import EvaluationRequest
from service.requests.fit import FitRequest
from service.requests.geometry import CirclesRequest, DecodingsRequest, GeometryRequest
from service.requests.inspection import CheckRequest, InspectRequest, ListRequest
from service.requests.serving import ScoreRequest, ServeRequest
from service.requests.train import TrainRequest

KINDS = {
    "networks": NETWORKS,
    "datasets": DATASETS,
    "attacks": ATTACKS,
    "detectors": DETECTORS,
    "objectives": OBJECTIVES,
    "engines": ENGINES,
}

Request = Parameter(name="*")  # one option per field of the request


def list_(request: Annotated[ListRequest | None, Request] = None) -> None:
    """List the networks, data sets, attacks, detectors, objectives and engines."""
    request = request or ListRequest()
    kinds = [request.kind] if request.kind else list(KINDS)
    summaries = {kind: KINDS[kind].summaries() for kind in kinds}
    if request.json:
        print(json.dumps(summaries, indent=2))
        return
    for kind, entries in summaries.items():
        print(f"{kind}:")
        for name, summary in entries.items():
            print(f"  {name:<18} {summary}")


def inspect(request: Annotated[InspectRequest, Request]) -> None:
    """List the residual branches of a network, and the candidates that are skipped."""
    from service.jobs.inspect import inspect_network

    inspection = inspect_network(request)
    print(json.dumps(inspection.to_json(), indent=2) if request.json else inspection.as_table())


def check(request: Annotated[CheckRequest, Request]) -> int:
    """Check a network, and images for it, before anything expensive.

    Exit status 0: every check passed, perhaps with warnings; 1: a check failed. See docs/check.md.
    """
    from service.jobs.check import check as check_job

    report = check_job(request)
    print(json.dumps(report.to_json(), indent=2) if request.json else report.as_table())
    return 0 if report.passed else 1


def train(request: Annotated[TrainRequest, Request]) -> None:
    """Train a network. An interrupted run resumes with the same command."""
    from service.jobs.train import train_network

    result = train_network(request)
    for line in result.summary:
        print(line)
    print(f"test accuracy {result.test_accuracy:.2%} on {result.test_images} images; checkpoint in {request.out}")


def attack(request: Annotated[AttackRequest, Request]) -> None:
    """Attack a data set in shards; fit and evaluate use the attacked images (--attacked).

    An interrupted job resumes with the same command. See docs/large-jobs.md.
    """
    from service.jobs.attack import attack as attack_job

    print(attack_job(request).summary())


def fit(request: Annotated[FitRequest, Request]) -> None:
    """Fit a detector to a network and write an artifact."""
    from service.jobs.fit import fit as fit_job

    written = fit_job(request).provenance
    print(f"natural accuracy {written['natural_accuracy']:.2%}")
    for attack in written["attacks"]:
        print(f"fitted on {attack['attack']}: accuracy under attack {attack['accuracy_under_attack']:.2%}")
    if (rate := written["realised_fpr"]) is not None:
        low, high = rate["interval"]
        print(
            f"false-positive rate {rate['rate']:.2%} on {rate['n']} natural test images (95 % interval {low:.2%} to "
            f"{high:.2%}); requested: {request.options.fpr:.2%}"
        )
    print(f"artifact in {request.options.out}")


def calibrate(request: Annotated[CalibrateRequest, Request]) -> None:
    """Write an artifact with a new threshold, from natural images; network and detector stay the same.

    The images are a data set, or the images of a server's random sample that reviewers classified as natural.
    """
    from service.jobs.calibrate import calibrate as calibrate_job

    done = calibrate_job(request)
    rate, interval = done.old_rate
    print(f"calibrated on {done.images} images of {done.source}")
    print(f"threshold {done.old_threshold:.6g} → {done.threshold:.6g} for a false-positive rate of {done.fpr:.2%}")
    print(
        f"the previous threshold flags {rate:.2%} of these images (95 % interval {interval.low:.2%} to "
        f"{interval.high:.2%})"
    )
    print(f"artifact in {request.out}")


def evaluate(request: Annotated[EvaluationRequest, Request]) -> None:
    """Evaluate detectors, or an artifact, on natural and attacked images and on outliers.

    With --artifact alone, the artifact is evaluated on all images that it has not seen. With --network, or with
    --detectors or --fit-on, detectors are fitted and evaluated run by run. An interrupted evaluation resumes with the
    same command. See docs/evaluation.md.
    """
    from service.jobs.evaluate import evaluate as evaluate_job

    outcome = evaluate_job(request)
    print(outcome.table)
    print(f"report in {outcome.page}")


def certify(request: Annotated[CertifyRequest, Request]) -> None:
    """Certify radii within which answers do not change, or change to a rejection only, by randomised smoothing.

    The certificates hold for the smoothed system, which answers by the votes of noisy copies of an image; see
    docs/certify.md. An interrupted run resumes with the same command.
    """
    from service.jobs.certify import certify as certify_job

    print(certify_job(request).summary())


def geometry(request: Annotated[GeometryRequest, Request]) -> None:
    """Measure the length and straightness of paths through networks, side by side.

    Transport cost, line shape, optimal transport, noise and gradients along the residual blocks; see docs/geometry.md.
    To measure a network in a folder with the name of a sub-command, write ./circles.
    """
    from service.jobs.geometry import write_geometry

    print(write_geometry(request).summary())


def circles(request: Annotated[CirclesRequest, Request]) -> None:
    """Train networks on points of two circles in the plane, and draw how they move the points."""
    from service.geometry.circles.experiment import write_circles

    print(f"report in {write_circles(request)}")


def decodings(request: Annotated[DecodingsRequest, Request]) -> None:
    """Decode the embeddings of an autoencoder after every block, and draw them."""
    from service.geometry.decodings.experiment import write_decodings

    print(f"report in {write_decodings(request)}")


def score(request: Annotated[ScoreRequest, Request]) -> None:
    """Print one JSON line per image file, or write a row per image of a data set: class, score, p-value, flag."""
    if request.dataset is not None:
        from service.jobs.score_dataset import score_dataset

        scored = score_dataset(request)
        print(f"{scored.flagged} of {scored.images} images flagged; rows in {request.parquet}")
        return
    from service.jobs.score import score_files

    failed = 0
    for values in score_files(request):
        failed += "error" in values
        print(json.dumps(values), flush=True)
    if failed:
        raise InputError(f"{failed} of {len(request.files)} images could not be read; see the lines with `error`")


def serve(request: Annotated[ServeRequest, Request]) -> None:
    """Serve artifacts over HTTP."""
    from service.http.connection.reload_signal import caught_reload_signals

    gc.disable()  # during the imports it takes 0.2 s and finds almost nothing; the server enables it after its start
    try:
        # From here on SIGHUP does not end the process; importing torch takes seconds.
        with caught_reload_signals() as reload_signal:
            from service.jobs.serve import serve_artifacts

            serve_artifacts(request, reload_signal)
    finally:
        gc.enable()


def demo(request: Annotated[DemoRequest | None, Request] = None) -> None:
    """Fit, attack, evaluate and draw on bundled photos."""
    from service.jobs.demo import demo as demo_job
    from service.jobs.demo import serve_demo
    from service.report import as_table

    request = request or DemoRequest()
    result = demo_job(request)
    print(as_table(result.figures))
    print(f"\npaths of natural and attacked photos, block by block: {result.out / 'paths.png'}")
    print(f"report: {result.out / 'report' / 'report.html'}\nartifact: {result.out / 'artifact'}")
    if request.serve:
        serve_demo(request)
        return
    print("\nserve it, then send photos from another terminal:")
    print(f"  {_program()} serve --artifact {shlex.quote(str(result.out / 'artifact'))} --port {request.port}")
    for name in ("natural.png", "attacked.png"):
        url = f"http://127.0.0.1:{request.port}/v1/predict"
        print(f"  curl --data-binary @{shlex.quote(str(result.out / name))} {url}")


def _program() -> str:
    """The command that started this program, to print it; the program may not be on the search path."""
    called = Path(sys.argv[0])
    return shlex.quote(str(called)) if called.name == "plumbline" and called.is_file() else "plumbline"
