"""Requests that Ray Serve loses when a replica is killed under load and when an artifact is replaced.

Two replicas of `service.cluster.ray_serve` run behind the proxy of a local Ray on loopback. Clients send one PNG file
per request at full speed and compare each verdict with that of the bare pipeline.

    killed      one replica is killed, as by `kill -9`; the load continues until Ray has started another; repeated
    hangs       an image makes one replica's network hang (tests/chaos/poisoned_network.py) with a hang_timeout_s of
                two seconds; the health check detects it
    replaced    the application is deployed again with another artifact, once, under the same load

A request counts as lost if its answer is not 200. Clients send a lost request once more, which is safe because scoring
has no side effect. The command needs `pip install 'plumbline[ray]'`.
"""

import argparse
import os
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from PIL import Image

from benchmarks.common import write_result
from benchmarks.serving.load import image_files
from benchmarks.serving.throughput import untrained_artifact
from detector.artifact import Artifact, load_artifact
from models.images.decoding import decode_image
from service.cluster.ray_serve import Arguments, build
from tests.chaos import poisoned_network
from tests.tiny_artifact import SIDE, save_tiny_artifact

READY_TIMEOUT_S = 300.0
_POLL_S = 0.05


@dataclass(frozen=True)
class Answer:
    """One request: its start and end (seconds), its status (0: no answer), and whether its verdict is correct."""

    began: float
    ended: float
    status: int
    right: bool
    again: bool


class Load:
    """Clients that send `files` repeatedly to `url`, each over its own connection, until `stop`.

    Args:
        url: of the route.
        files: PNG files, each with its score by the artifact's digest.
        clients: number of concurrent clients.
    """

    def __init__(self, url: str, files: Sequence[tuple[bytes, dict[str, float]]], clients: int) -> None:
        self.answers: list[Answer] = []
        self._url = url
        self._files = files
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(clients)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Wait until every client has its last answer."""
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _run(self, number: int) -> None:
        with httpx.Client(timeout=60, trust_env=False) as http:
            while not self._stopped.is_set():
                file, scores = self._files[number % len(self._files)]
                number += 1
                if not self._send(http, file, scores, again=False):
                    self._send(http, file, scores, again=True)

    def _send(self, http: httpx.Client, file: bytes, scores: dict[str, float], *, again: bool) -> bool:
        began = time.monotonic()
        try:
            answer = http.post(self._url, content=file)
            status = answer.status_code
            right = status == 200 and _is_right(answer.json(), scores)
        except httpx.HTTPError:
            status, right = 0, False
        self.answers.append(Answer(began, time.monotonic(), status, right, again))
        return status == 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=5, help="replicas killed, one after the other (default: 5)")
    parser.add_argument("--clients", type=int, default=16, help="(default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=3.0, help="of load before and after each (default: 3)")
    parser.add_argument("--port", type=int, default=18765, help="of Ray's proxy on loopback (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        payload = measure(Path(folder), options)
    print(write_result("ray_serve", payload))


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Start a local Ray, measure and stop it."""
    artifacts = [untrained_artifact(folder / str(seed), seed) for seed in (options.seed, options.seed + 1)]
    files = _with_scores([load_artifact(path) for path in artifacts], options.seed)
    with local_ray(options.port) as ray_version:
        deploy(artifacts[0])
        url = f"http://127.0.0.1:{options.port}/v1/predict"
        kills = [_under_load(url, files, options, kill_a_replica) for _ in range(options.kills)]
        replaced = _under_load(url, files, options, lambda: deploy(artifacts[1]))
        hangs = _hangs(folder, url, options)
    return {
        "n": sum(trial["requests"] for trial in [*kills, hangs, replaced]),
        "seed": options.seed,
        "ray": ray_version,
        "replicas": 2,
        "clients": options.clients,
        "killed": kills,
        "hangs": hangs,
        "replaced": replaced,
    }


def _with_scores(artifacts: Sequence[Artifact], seed: int) -> list[tuple[bytes, dict[str, float]]]:
    files = []
    for file in image_files(artifacts[0], 32, seed):
        scores = {}
        for artifact in artifacts:
            pixels = torch.from_numpy(decode_image(file, artifact.preprocessing)).float().div_(255)
            scores[artifact.digest] = artifact.pipeline.score(pixels[None])[0].score
        files.append((file, scores))
    return files


def _is_right(answer: dict[str, Any], scores: dict[str, float]) -> bool:
    return abs(answer["results"][0]["score"] - scores[answer["artifact"]]) <= 1e-6


@contextmanager
def local_ray(port: int) -> Iterator[str]:
    """Run Ray and its proxy on loopback; yield its version."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["PLUMBLINE_INSECURE"] = "true"  # the proxy is on loopback
    import ray
    from ray import serve

    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="error")
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        yield ray.__version__
    finally:
        serve.shutdown()
        ray.shutdown()


def deploy(artifact: Path, network: str | None = None) -> None:
    """Deploy two replicas that serve `artifact`, and wait until they run."""
    from ray import serve

    arguments = Arguments(artifact=(f"model={artifact}",), network=(network,) if network else (), replicas=2)
    serve.run(build(arguments), name="plumbline", route_prefix="/")
    _wait_for_replicas()


def kill_a_replica() -> None:
    """Kill the process of one replica, and wait until two replicas run."""
    import ray

    victim = _replicas()[0]
    ray.kill(ray.get_actor(victim, namespace="serve"))
    _wait_for_replicas(gone=victim)


def _hangs(folder: Path, url: str, options: argparse.Namespace) -> dict[str, Any]:
    """Measure with a replica whose network hangs."""
    os.environ["PLUMBLINE_HANG_TIMEOUT_S"] = "2"
    network = f"{poisoned_network.__file__}:poisoned"
    path = save_tiny_artifact(folder / "poisoned", options.seed, network)
    artifact = load_artifact(path, network_file=network)
    files = _with_scores([artifact], options.seed)
    pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
    pixels[0] = np.array(poisoned_network.marker(poisoned_network.HANG), np.uint8)[:, None] * 255
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    deploy(path, network)

    def hang_a_replica() -> None:
        before = _replicas()
        print("answer to the poisoned image:", httpx.post(url, content=stream.getvalue(), timeout=60, trust_env=False))
        while not set(_replicas()) - set(before):
            time.sleep(_POLL_S)
        _wait_for_replicas()

    return _under_load(url, files, options, hang_a_replica)


def _replicas() -> list[str]:
    from ray.util import list_named_actors

    names = [actor["name"] for actor in list_named_actors(all_namespaces=True)]
    return sorted(name for name in names if name.startswith("SERVE_REPLICA::"))


def _wait_for_replicas(gone: str | None = None) -> None:
    from ray import serve

    end = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < end:
        # The status lags: for a moment it counts a dead replica as running.
        replicas = _replicas()
        states = serve.status().applications["plumbline"].deployments["plumbline"].replica_states
        if gone not in replicas and len(replicas) >= 2 and states.get("RUNNING") == 2 and not states.get("STARTING"):
            return
        time.sleep(_POLL_S)
    raise SystemExit(f"no two replicas run after {READY_TIMEOUT_S:g} s: {serve.status()}")


def _under_load(
    url: str,
    files: Sequence[tuple[bytes, dict[str, float]]],
    options: argparse.Namespace,
    happen: Callable[[], None],
) -> dict[str, Any]:
    """Call `happen` under load, and return the figures of the requests."""
    load = Load(url, files, options.clients)
    try:
        time.sleep(options.seconds)
        at = time.monotonic()
        happen()
        took = time.monotonic() - at
        time.sleep(options.seconds)
    finally:
        load.stop()
    trial = _figures(load.answers, at, took)
    print(trial, flush=True)
    return trial


def _figures(answers: Sequence[Answer], at: float, took: float) -> dict[str, Any]:
    first = [answer for answer in answers if not answer.again]
    lost = [answer for answer in first if answer.status != 200]
    return {
        "requests": len(first),
        "under_way_at_the_time": sum(answer.began <= at <= answer.ended for answer in first),
        "lost": len(lost),
        "lost_statuses": dict(Counter(str(answer.status) for answer in lost)),
        "lost_that_began_later": sum(answer.began > at for answer in lost),
        "last_loss_began_s_after": max((answer.began - at for answer in lost), default=None),
        "lost_again": sum(answer.again and answer.status != 200 for answer in answers),
        "wrong_verdicts": sum(answer.status == 200 and not answer.right for answer in answers),
        "longest_answer_s": max(answer.ended - answer.began for answer in first),
        "two_replicas_again_s": took,
    }


if __name__ == "__main__":
    main()
