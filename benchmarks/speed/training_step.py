"""Duration of a training step with another objective ÷ that with cross-entropy.

A step is that of `models.training.loop.train`: clearing of gradients, objective and its gradients, SGD, the objective's
own state. Each ratio is the median over paired rounds, in a copy of the same network and on the same images; 1.05 means
5 % more.
"""

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.common import arguments, paired, write_result
from models.memory import keep_freed_memory
from models.networks.resnet import resnet20, resnet56
from models.networks.resnext import resnext50
from models.normalization import Normalized
from models.objectives.base import Objective, build_objective
from models.residuals import discover

BAR = 1.10  # for least action
OBJECTIVES = ("least_action", "reverse_cross_entropy")
PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16}


class Case(NamedTuple):
    """A network, and a batch for a step on two cores."""

    constructor: Callable[[], nn.Module]
    batch: int
    size: int


def _torchvision_resnet18() -> nn.Module:
    from torchvision.models import resnet18

    network: nn.Module = resnet18(num_classes=10)
    return network


CASES = {
    "resnet20": Case(resnet20, 64, 32),
    "resnet56": Case(resnet56, 32, 32),
    "torchvision:resnet18": Case(_torchvision_resnet18, 16, 64),
    "resnext50": Case(resnext50, 4, 32),
}


def build(case: Case, seed: int, device: str) -> nn.Module:
    """The network in training mode and channels last, as in `train`."""
    torch.manual_seed(seed)
    network = Normalized(case.constructor(), (0.5,) * 3, (0.25,) * 3).to(device).train()
    return network.to(memory_format=torch.channels_last)


def stepping(
    network: nn.Module, objective: Objective, images: Tensor, labels: Tensor, dtype: torch.dtype | None
) -> Callable[[], None]:
    """A function that runs one training step and waits for its end."""
    objective.prepare(network, (3, *images.shape[2:]), epochs=1)
    # A learning rate of 0 keeps the weights, so that every round does the same work.
    optimizer = torch.optim.SGD(network.parameters(), 0.0, momentum=0.9, weight_decay=5e-4, nesterov=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(images.device.type, dtype, enabled=dtype is not None):
            value = objective.accumulate(network, images, labels)
        optimizer.step()
        objective.after_step(value)
        # The training loop reads these numbers for its log, which waits for the device.
        float(value.loss.detach())
        for number in value.measures.values():
            float(number)

    return step


def measure(
    name: str, precision: str, rounds: int, seed: int, device: str, batch: int | None = None
) -> list[dict[str, Any]]:
    """One entry per objective for a network in a precision."""
    case = CASES[name]
    network = build(case, seed, device)
    blocks = len(discover(network, (3, case.size, case.size)).branches)
    generator = torch.Generator().manual_seed(seed)
    count = batch or case.batch
    images = torch.rand((count, 3, case.size, case.size), generator=generator).to(device)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(10, (count,), generator=generator).to(device)
    dtype = PRECISIONS[precision]
    plain = stepping(copy.deepcopy(network), build_objective("cross_entropy"), images, labels, dtype)
    entries = []
    for objective in OBJECTIVES:
        other = stepping(copy.deepcopy(network), build_objective(objective), images, labels, dtype)
        ratio = paired(plain, other, rounds)
        entries.append(
            {
                "network": name, "precision": precision, "objective": objective, "blocks": blocks, "batch": count,
                "image_size": case.size, "bar": BAR if objective == "least_action" else None, **ratio.to_json(),
            }
        )  # fmt: skip
        print(f"{name} {precision} {objective}: {ratio.ratio:.3f} ({ratio.low:.3f} to {ratio.high:.3f})", flush=True)
    return entries


def main(argv: list[str] | None = None) -> None:
    """Measure and write the result."""
    parser = arguments(__doc__)
    parser.add_argument("--batch", type=int, help="images per step (default: depends on the network)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    parser.add_argument("--networks", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--precisions", nargs="+", default=list(PRECISIONS), choices=list(PRECISIONS))
    options = parser.parse_args(argv)
    if options.threads:
        torch.set_num_threads(options.threads)
    keep_freed_memory()  # `plumbline train` does the same
    cases = [
        entry
        for name in options.networks
        for precision in options.precisions
        for entry in measure(name, precision, options.rounds, options.seed, options.device, options.batch)
    ]
    payload = {
        "n": options.rounds,
        "seed": options.seed,
        "device": options.device,
        "unit": "duration of a training step ÷ duration with cross-entropy; n paired rounds, median and quartiles",
        "cases": cases,
    }
    print(write_result("objectives", payload, options.out))


if __name__ == "__main__":
    main()
