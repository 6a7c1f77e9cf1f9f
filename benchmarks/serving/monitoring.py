"""A server whose images become blurred: alarm, review, recalibration, reload, attack, restarts.

A real server process scores CIFAR-10 images with ResNet-20. After natural images, all images are blurred, and some are
noise. The benchmark, which knows the noise, decides in place of a reviewer on every image of the random sample since
the change. `plumbline calibrate --from-reviews` writes another artifact, and SIGHUP switches the server to it while
images are sent. HopSkipJump then attacks an image over HTTP. The server is stopped and started, and killed and started:
no response and no stored verdict is lost. The last figure is the processor time of the store.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import torch
from torch import nn

from attacks.hop_skip_jump import HopSkipJump
from benchmarks.common import arguments, write_result
from benchmarks.detection.calibration_watch import blurred
from benchmarks.serving.load import Process, plumbline_server
from detector.artifact import load_artifact
from models.datasets.base import DatasetRequest, ImageDataset, load_dataset
from models.loading import load_network
from service.http.observability.metrics import Metrics
from service.http.observability.recorder import VerdictRecorder
from service.http.observability.served import ServedImages
from service.http.settings import Settings
from service.jobs.fit import FitInputs, fit_detector
from service.monitoring.reviews.store import Store
from service.requests.fit import FitOptions

NETWORK = "pretrained:cifar10-resnet20"
DETECTOR = "fusion:classifier=none"
BLUR = 0.8  # standard deviation in pixels, after the change
NOISE = 0.05  # share of noise images after the change
SAMPLE = 0.5
QUERIES = 400  # of the attack
PER_REQUEST = 20
TIMEOUT_S = 120.0
POLL_S = 0.3


@dataclass
class Client:
    """A client and reviewer of a server process; its counts are of images.

    Args:
        process: the server.
        verdicts: received so far, from all processes.
        requests: sent so far.
        noise: request and place of the images that are noise.
        natural: number of natural images, and of flagged ones among them, by version.
    """

    process: Process | None = None
    verdicts: int = 0
    requests: int = 0
    noise: set[tuple[str, int]] = field(default_factory=set)
    natural: dict[str, list[int]] = field(default_factory=dict)

    def send(self, images: np.ndarray, noise: np.ndarray | None = None) -> list[int]:
        """Predicted classes of uint8 images ``(n, H, W, 3)``; `noise` ``(n,)`` marks those that are not natural."""
        assert self.process is not None
        marked = np.zeros(len(images), bool) if noise is None else noise
        labels: list[int] = []
        for first in range(0, len(images), PER_REQUEST):
            part, others = images[first : first + PER_REQUEST], marked[first : first + PER_REQUEST]
            self.requests += 1
            name = f"r-{self.requests}"
            pixels = np.ascontiguousarray(part.transpose(0, 3, 1, 2))
            tensor = {"name": "PIXELS", "datatype": "UINT8", "shape": pixels.shape, "data": pixels.ravel().tolist()}
            answer = self.call(self.process.port, "/v2/models/model/infer", {"inputs": [tensor]}, name)
            outputs = {output["name"]: output["data"] for output in answer["outputs"]}
            flags = outputs["flagged"]
            labels += outputs["label"]
            self.noise |= {(name, int(place)) for place in np.flatnonzero(others)}
            self.verdicts += len(flags)
            counted = self.natural.setdefault(answer["model_version"], [0, 0])
            counted[0] += int((~others).sum())
            counted[1] += int(np.sum(np.array(flags, bool) & ~others))
        return labels

    def call(self, port: int | None, path: str, body: Any = None, name: str = "reviewer") -> Any:
        """The JSON of a response; a status of 4xx or 5xx is an error that ends the benchmark."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", "X-Request-ID": name}
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, headers)
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
            return json.load(response)

    def admin(self, path: str, body: Any = None) -> Any:
        """The JSON of a response of the admin port."""
        assert self.process is not None
        return self.call(self.process.admin_port, path, body)

    def watch(self, images: int) -> dict[str, Any]:
        """The calibration watch of the current version, once it has this number of images, repeated ones included."""
        end = time.monotonic() + TIMEOUT_S
        while True:
            found = self.admin("/admin/status")["models"][0]["calibration_watch"]
            if found is not None and found["images"] + found["repeated"] == images:
                return dict(found)
            if time.monotonic() > end:
                raise TimeoutError(f"expected {images} images in the calibration watch, got {found}")
            time.sleep(POLL_S)

    def review(self, since: float) -> dict[str, int]:
        """Decide on every sampled image since a Unix time; the number of decisions."""
        counts: dict[str, int] = {}
        while rows := self.admin("/admin/reviews?of=sample&unreviewed=true&limit=200")["verdicts"]:
            rows = [row for row in rows if row["time"] >= since]
            if not rows:
                return counts
            for row in rows:
                natural = (row["request"], row["place"]) not in self.noise
                decisions = ("correct_flag", "false_alarm") if row["flagged"] else ("missed", "correct_pass")
                decision = decisions[natural]
                self.admin(f"/admin/reviews/{row['id']}", {"decision": decision})
                counts[decision] = counts.get(decision, 0) + 1
        return counts


class ServedNetwork(nn.Module):
    """The network behind a server as an attacker sees it: the predicted class only.

    Args:
        client: sends the queries; `queries` counts them.
        classes: number of classes.
    """

    def __init__(self, client: Client, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))  # names a device
        self.client, self.classes, self.queries = client, classes, 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        pixels = images.detach().mul(255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
        self.queries += len(pixels)
        labels = self.client.send(pixels, np.ones(len(pixels), bool))
        return nn.functional.one_hot(torch.tensor(labels), self.classes).float()


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__, rounds=5)
    parser.add_argument("--dataset", default="cifar10", help="default: %(default)s")
    parser.add_argument("--data-root", type=Path, default=Path("data"), help="default: %(default)s")
    parser.add_argument("--fitted", type=int, default=4000, help="images of the artifact (default: %(default)s)")
    parser.add_argument("--before", type=int, default=1000, help="images before the change (default: %(default)s)")
    parser.add_argument("--changed", type=int, default=1500, help="images until the review (default: %(default)s)")
    parser.add_argument("--after", type=int, default=1500, help="images after the review (default: %(default)s)")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads or 1)
    with tempfile.TemporaryDirectory() as folder:
        figures = measured(Path(folder), options) | {"store_us": microseconds(Path(folder), options.rounds)}
    payload = {"n": figures["verdicts"], "seed": options.seed, "network": NETWORK, "detector": DETECTOR, "blur": BLUR}
    print(json.dumps(payload | figures))
    print(f"written to {write_result('monitoring', payload | figures, options.out)}")


def measured(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The figures of every step; files are in `folder`."""
    rng = np.random.default_rng(options.seed)
    data = load_dataset(options.dataset, DatasetRequest(root=options.data_root))
    sizes = (options.fitted, options.before, options.changed, options.after)
    rows = np.split(rng.permutation(len(data))[: sum(sizes)], np.cumsum(sizes[:-1]))
    before, changed, after = (data.take(part).images[:].transpose(0, 2, 3, 1) for part in rows[1:])
    noise = rng.random(len(changed)) < NOISE
    changed, after = blurred(BLUR)(changed), blurred(BLUR)(after)
    changed[noise] = rng.integers(0, 256, changed[noise].shape, dtype=np.uint8)

    first, second, link = (folder / name for name in ("first", "second", "artifact"))
    fit_options = FitOptions(out=first, detector=DETECTOR, split="0.7,0.2,0.1", engine="torch", seed=options.seed)
    fit_detector(FitInputs(data=data.take(rows[0]), loaded=load_network(NETWORK)), fit_options)
    link.symlink_to(first)
    settings = {
        "store": folder / "verdicts.sqlite", "keep_flagged": folder / "kept", "state": folder / "state",
        "sample_for_review": SAMPLE, "torch_threads": options.threads or 1,
    }  # fmt: skip
    client = Client()
    figures: dict[str, Any] = {}
    with plumbline_server(link, **settings) as client.process:
        # 1. Natural images, then the change and the alarm.
        client.send(before)
        figures["before"] = _watched(client.watch(len(before)))
        time.sleep(1.1)  # --since has whole seconds
        since = int(time.time())
        client.send(changed, noise)
        watch = client.watch(len(before) + len(changed))
        alarms = {each["change"]: each["images"] - figures["before"]["images"] for each in reversed(watch["alarms"])}
        figures["changed"] = _watched(watch) | {"alarm_after": alarms, "noise": int(noise.sum())}
        print(figures, flush=True)
        # 2. Review and recalibration.
        figures["reviews"] = client.review(since)
        text = datetime.fromtimestamp(since, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        command = [
            "calibrate", "--artifact", str(link), "--from-reviews", str(settings["store"]), "--keep-flagged",
            str(settings["keep_flagged"]), "--since", text, "--out", str(second),
        ]  # fmt: skip
        subprocess.run([sys.executable, "-m", "service.cli.main", *command], check=True)
        old, new = load_artifact(first), load_artifact(second)
        figures["calibrated_on"] = len(new.pipeline.calibration.scores)
        # 3. The reload, while images are sent.
        link.unlink()
        link.symlink_to(second)
        failures: list[BaseException] = []
        sender = Thread(target=_collect, args=(failures, client.send, after))
        sender.start()
        os.kill(client.process.pid, signal.SIGHUP)
        sender.join()
        if failures:
            raise failures[0]
        versions = [each.digest[:12] for each in (old, new)]
        count, flags = client.natural[versions[1]]
        interval = new.pipeline.calibration.expected_realised_rate(count)
        figures["after"] = _watched(client.watch(count)) | {
            "rate": flags / count, "expected": [interval.low, interval.high],
            "by_previous_version": client.natural[versions[0]][0] - len(before) - int((~noise).sum()),
        }  # fmt: skip
        # 4. An attack.
        figures["attack"] = attacked(client, data.take(rows[3]).limited(1, options.seed), len(data.classes))
    # 5. A restart, and a kill.
    with plumbline_server(link, **settings) as client.process:
        status = client.admin("/admin/status")
        figures["restarted"] = {"verdicts": client.verdicts, "stored": status["store"]["verdicts"]}
        figures["events"] = [each["fields"].get("change", each["kind"]) for each in status["store"]["events"]][::-1]
        client.send(before[:100])
        time.sleep(2)
        os.kill(client.process.pid, signal.SIGKILL)
    with plumbline_server(link, **settings) as client.process:
        store = client.admin("/admin/status")["store"]
        figures["killed"] = {"verdicts": client.verdicts, "stored": store["verdicts"]}
        figures["precision"] = store["rates"]["model"]["precision"]["all"]
    return figures | {"verdicts": client.verdicts, "requests": client.requests}


def attacked(client: Client, image: ImageDataset, classes: int) -> dict[str, Any]:
    """Attack one image over HTTP; the queries, and the session that the server recognises, if any."""
    network = ServedNetwork(client, classes)
    label = network(image.tensor()).argmax(1)
    HopSkipJump(total_queries=QUERIES, batch_size=1)(network, image.tensor(), label)
    sessions = client.admin("/admin/status")["sessions"]
    found = [each for each in sessions if each["rules"]]
    return {
        "queries": network.queries,
        "sessions": [{name: each[name] for name in ("members", "rules")} for each in found],
    }


def _watched(watch: dict[str, Any]) -> dict[str, Any]:
    return {name: watch[name] for name in ("images", "repeated", "flagged", "level")}


def _collect(failures: list[BaseException], work: Any, *given: Any) -> None:
    try:
        work(*given)
    except BaseException as exc:
        failures.append(exc)


def microseconds(folder: Path, rounds: int) -> dict[str, float]:
    """Processor time per image of the store, in microseconds: in a request of one image, and in the thread.

    One image in twenty is flagged and kept.
    """
    artifact = load_artifact(folder / "second")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 32, 32), dtype=np.uint8)
    verdicts = artifact.pipeline.score(torch.from_numpy(pixels).float().div_(255))
    plain, flagged = (replace(verdicts[0], flagged=flag) for flag in (False, True))
    best = {"request": float("inf"), "thread": float("inf")}
    for number in range(rounds):
        settings = Settings(store=folder / f"{number}.sqlite", keep_flagged=folder / f"kept-{number}")
        assert settings.store is not None
        recorder = VerdictRecorder(Store(settings.store), settings, Metrics())
        served = [
            ServedImages(
                time=0.0, model="model", artifact=artifact, request_id=f"{place}", key=None, indices=[0],
                verdicts=[plain if place % 20 else flagged], pixels=[pixels[0]],
            )
            for place in range(4000)
        ]  # fmt: skip
        started = time.thread_time()
        for each in served:
            recorder.observe(each)
        queued = time.thread_time()
        recorder.flush()
        best["request"] = min(best["request"], 1e6 * (queued - started) / len(served))
        best["thread"] = min(best["thread"], 1e6 * (time.thread_time() - queued) / len(served))
        recorder.stop()
    return best


if __name__ == "__main__":
    main()
