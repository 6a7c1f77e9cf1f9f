"""Peak memory of one training step: end to end, and module by module in parallel (tables 9 and 31 of the thesis).

The figure counts every byte of every tensor that is alive at once: parameters, gradients, momentum, batch, activations
that autograd keeps, and results of functions. The first step creates the momentum; the second is measured.

On the CPU the count is exact: every function that torch dispatches is watched, and a tensor's memory counts once for
all its views, from the function that creates it until it is freed. Temporary memory inside one kernel is not seen. By
default the tensors are on torch's "meta" device: they have sizes and lifetimes but no contents, so that a step that
needs many GiB is measured without them. A test compares these figures with those of real tensors. With
``--device cuda`` the figure is the peak of torch's allocator, including workspaces and caches of kernels.
"""

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torchvision.models
from torch import Tensor, nn

from benchmarks.common import arguments, write_result
from models.batching import AliveMemory
from models.networks.resnet import resnet110
from models.normalization import Normalized
from models.objectives.base import Objective
from models.objectives.cross_entropy import CrossEntropy
from models.objectives.module_wise import ModuleWise

__all__ = ["peak_of_a_step"]

MIB = 2**20
TAU = 0.5


@dataclass(frozen=True)
class Case:
    """A network, its images, and the numbers of modules of its splits."""

    name: str
    build: Callable[[], nn.Module]
    size: int
    batch: int
    modules: Sequence[int]


CASES = (
    Case("resnet110", resnet110, 96, 64, (4, 8, 16)),
    Case("vgg19_bn", partial(torchvision.models.vgg19_bn, num_classes=200, init_weights=False), 64, 256, (4,)),
    Case("resnet50", partial(torchvision.models.resnet50, num_classes=200), 64, 256, (4,)),
    Case("swin_t", partial(torchvision.models.swin_t, num_classes=10), 32, 1024, (4,)),
)


def peak_of_a_step(network: nn.Module, objective: Objective, batch: tuple[int, int], *, device: str, seed: int) -> int:
    """Bytes alive at the peak of a training step of `network`, prepared on the CPU.

    Args:
        batch: images, and pixels of a side.
        device: "meta", "cpu" or "cuda".
    """
    count, size = batch
    objective.prepare(network, (3, size, size), 1)
    generator = torch.Generator().manual_seed(seed)
    images = torch.empty(count, 3, size, size, device="meta")
    labels = torch.empty(count, dtype=torch.int64, device="meta")
    if device != "meta":
        images = torch.rand(images.shape, generator=generator).to(device)
        labels = torch.randint(10, labels.shape, generator=generator).to(device)
    _move(network, objective, device)
    parameters = [*network.parameters(), *objective.parameters()]
    optimizer = torch.optim.SGD(parameters, 0.01, momentum=0.9, nesterov=True, foreach=False)
    network.train()
    objective.begin_epoch(0)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        objective.accumulate(network, images, labels)
        optimizer.step()

    step()
    optimizer.zero_grad(set_to_none=True)
    gc.collect()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        step()
        return torch.cuda.max_memory_allocated()
    momentum = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
    alive = [images, labels, *parameters, *network.buffers(), *objective.tensors().values(), *momentum]
    memory = AliveMemory(alive)
    with memory:
        step()
    return memory.peak


def _move(network: nn.Module, objective: Objective, device: str) -> None:
    """Move the trained parameters, and the copies of the network's buffers in its modules."""
    everything = nn.ModuleList([network])
    for local in getattr(objective, "local_modules", ()):
        everything.extend([local.module, *([local.classifier] if local.classifier is not None else [])])
    everything.to(device)


def _regularisations() -> dict[str, float | None]:
    return {"VanGL": None, "TRGL": TAU}


def measure_case(case: Case, device: str, seed: int, batch: int | None = None) -> dict[str, Any]:
    """Peaks of the network end to end and split, in MiB, and the share that each split saves."""
    images = (batch or case.batch, case.size)

    def peak(objective: Objective) -> float:
        torch.manual_seed(seed)
        network = Normalized(case.build(), (0.5,) * 3, (0.25,) * 3)
        return peak_of_a_step(network, objective, images, device=device, seed=seed) / MIB

    end_to_end = peak(CrossEntropy())
    rows = []
    for modules in case.modules:
        for split in ("depth", "weight"):
            for name, tau in _regularisations().items():
                taken = peak(ModuleWise(modules=modules, split=split, tau=tau))
                saved = 1 - taken / end_to_end
                rows.append({"modules": modules, "split": split, "objective": name, "mib": taken, "saved": saved})
                print(f"{case.name} K={modules} {split} {name}: {saved:.1%} less", flush=True)
    return {"network": case.name, "batch": images[0], "size": case.size, "end_to_end_mib": end_to_end, "rows": rows}


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__)
    parser.add_argument("--device", choices=["meta", "cpu", "cuda"], default="meta", help="(default: %(default)s)")
    parser.add_argument("--batch", type=int, help="images per step (default: the thesis's, different per network)")
    parser.add_argument("--networks", help="some of resnet110,vgg19_bn,resnet50,swin_t (default: all)")
    options = parser.parse_args(argv)
    if options.threads:
        torch.set_num_threads(options.threads)
    chosen = options.networks.split(",") if options.networks else [case.name for case in CASES]
    cases = [case for case in CASES if case.name in chosen]
    if len(cases) < len(chosen):
        parser.error(f"expected --networks among {', '.join(case.name for case in CASES)}, got {options.networks}")
    measured = [measure_case(case, options.device, options.seed, options.batch) for case in cases]
    payload = {"n": len(measured), "seed": options.seed, "device": options.device, "tau": TAU, "cases": measured}
    print(write_result("memory", payload, options.out))


if __name__ == "__main__":
    main()
