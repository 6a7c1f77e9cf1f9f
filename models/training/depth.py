"""Adaptive depth: blocks of a Runge–Kutta network are added and removed during training.

The error of a block is ‖y_order3 − y_order2‖ on held-out images (the thesis, section 6.2.1 and appendix A.3). Blocks
with large errors are replaced by copies with smaller steps. Blocks with small errors get larger steps and replace the
blocks after them.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import accumulate
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from models.batching import fitting_batch, run_batches
from models.datasets.base import ImageDataset
from models.errors import InputError
from models.loading import NetworkSpec
from models.networks.runge_kutta import RungeKuttaBlock, RungeKuttaNetwork, format_steps, parse_steps
from models.options import check_choice, check_count, check_number

__all__ = ["AdaptiveDepth", "DepthRule", "block_errors", "halve_or_double", "resize_steps"]

Rule = Literal["halve", "power", "scaled"]
Plan = list[tuple[int, float]]  # for each new block, the number of the old block and the new step size

_ORDER = 3  # the error of a step is of the order of h³
_SAFETY = 0.9  # α of appendix A.3
_MIN_FACTOR, _MAX_FACTOR = 0.5, 2.0  # facmin and facmax of appendix A.3
_MAX_STEP_SIZE = 100.0  # of a network's specification


@dataclass(frozen=True, kw_only=True)
class DepthRule:
    """When and how the blocks change.

    Args:
        rule: "halve": a block whose mean error exceeds ε is replaced by two copies with half the step; one whose error
            is below ε/3 gets twice the step, and the block after it in its stage is removed. "power" and "scaled": the
            wanted step is the step times (ε/error)^(1/3) and times 0.9 · error^(−1/3), at least half and at most twice
            the step; see `resize_steps`. For "scaled", the error is the root mean square over the dimensions, each
            divided by ε (1 + max(|y_order3|, |y_order2|)).
        tolerance: ε.
        every: S, epochs from one change to the next; after the last epoch there is none.
        held_out: share of the training images that are reserved for the errors.
        max_blocks: maximum number of blocks of a stage.
    """

    rule: Rule = "halve"
    tolerance: float
    every: int = 5
    held_out: float = 0.1
    max_blocks: int = 16

    def __post_init__(self) -> None:
        check_choice("rule", self.rule, get_args(Rule))
        check_number("tolerance", self.tolerance, above=0)
        check_count("every", self.every)
        check_count("max_blocks", self.max_blocks, most=110)
        if not 0 < check_number("held_out", self.held_out) <= 0.5:
            raise InputError(f"expected held_out above 0 and at most 0.5, got {self.held_out}")

    def plan(self, steps: Sequence[float], ratios: Sequence[float]) -> Plan:
        """The new blocks of a stage.

        Args:
            steps: step sizes of its blocks.
            ratios: their errors, divided by ε (for "scaled", as `block_errors` returns them).
        """
        if self.rule == "halve":
            return halve_or_double(steps, ratios, self.max_blocks)
        return resize_steps(steps, ratios, self.max_blocks, safety=_SAFETY if self.rule == "scaled" else 1.0)


class AdaptiveDepth:
    """The changes of one run. `models.training.loop.train` calls it after every epoch.

    Args:
        rule: when and how.
        network: contains a network of `models.networks.runge_kutta` whose blocks have all four functions.
        held_out: images for the errors.

    Raises:
        InputError: another network.
    """

    def __init__(self, rule: DepthRule, network: nn.Module, held_out: ImageDataset) -> None:
        self.rule = rule
        self._held_out = held_out
        self._network = network
        self._adaptive = _runge_kutta(network)
        self._history: list[dict[str, Any]] = []

    @property
    def history(self) -> list[dict[str, Any]]:
        """For each change: the epochs before it, the errors of the blocks and the new step sizes, stage by stage."""
        return self._history

    def options(self) -> dict[str, Any]:
        """JSON values of the rule."""
        return asdict(self.rule)

    def blocks(self) -> int:
        """The number of blocks."""
        return sum(map(len, self._adaptive.step_sizes()))

    def after_epoch(self, epochs: int) -> bool:
        """Change the blocks if a change is due after that number of epochs, and return whether they changed."""
        if epochs % self.rule.every:
            return False
        scaled = self.rule.rule == "scaled"
        errors = block_errors(self._network, self._held_out, scale=self.rule.tolerance if scaled else None)
        unit = 1.0 if scaled else self.rule.tolerance
        steps = self._adaptive.step_sizes()
        plan = [
            self.rule.plan(sizes, [error / unit for error in stage]) for sizes, stage in zip(steps, errors, strict=True)
        ]
        changed = plan != [list(enumerate(sizes)) for sizes in steps]
        if changed:
            self._adaptive.replace_blocks(plan)
        self._history.append({"epoch": epochs, "errors": errors, "steps": self._adaptive.step_sizes()})
        return changed

    def specification(self, spec: NetworkSpec) -> NetworkSpec:
        """The specification with the present step sizes."""
        return replace(spec, arguments={**spec.arguments, "steps": format_steps(self._adaptive.step_sizes())})

    def state(self) -> dict[str, Any]:
        """JSON values for `load_state` when a run continues."""
        return {"steps": format_steps(self._adaptive.step_sizes()), "history": self._history}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore the number and the step sizes of the blocks; their weights come from the state of the run."""
        self._history = list(state["history"])
        self._adaptive.replace_blocks([[(0, size) for size in sizes] for sizes in parse_steps(state["steps"])])


def block_errors(network: nn.Module, data: ImageDataset, *, scale: float | None = None) -> list[list[float]]:
    """The mean error of every Runge–Kutta block over the images, stage by stage; the network is unchanged.

    Args:
        network: images in [0, 1] → logits.
        data: the images.
        scale: ε of the rule "scaled"; None for the L2 norm of y_order3 − y_order2.
    """
    stages = _runge_kutta(network).blocks()
    blocks = [block for stage in stages for block in stage]
    sums = torch.zeros(len(blocks), dtype=torch.float64)
    device = blocks[0].step.device
    measured: list[float] = []

    def measure(block: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(block, RungeKuttaBlock)
        measured.append(float(_errors(block, inputs[0], scale).double().sum()))

    def images(rows: slice) -> Tensor:
        return data.tensor(rows).to(device, memory_format=torch.channels_last)

    def step(rows: slice) -> Tensor:
        measured.clear()
        network(images(rows))
        return torch.tensor(measured, dtype=torch.float64)

    training = network.training
    network.eval()
    hooks = [block.register_forward_pre_hook(measure) for block in blocks]
    try:
        with torch.inference_mode():
            for _, of_batch in run_batches(step, len(data), fitting_batch(network, images(slice(1)), len(data), 500)):
                sums += of_batch
    finally:
        for hook in hooks:
            hook.remove()
        network.train(training)
    means = iter((sums / len(data)).tolist())
    return [[next(means) for _ in stage] for stage in stages]


def _errors(block: RungeKuttaBlock, x: Tensor, scale: float | None) -> Tensor:
    """The error of each image of a batch, ``(B,)``."""
    if scale is None:
        norms: Tensor = torch.linalg.vector_norm(block.error(x).flatten(1), dim=1)
        return norms
    outputs = block.outputs(x)
    third, second = outputs["order3"].flatten(1), outputs["order2"].flatten(1)
    scaled: Tensor = (third - second) / (scale * (1 + torch.maximum(third.abs(), second.abs())))
    return scaled.square().mean(1).sqrt()


def halve_or_double(steps: Sequence[float], ratios: Sequence[float], max_blocks: int) -> Plan:
    """Two blocks of half the step for a ratio above 1; one of twice the step, without the next, below 1/3.

    The last block has no block after it and is not doubled.

    Args:
        steps: step sizes of the blocks of a stage.
        ratios: their errors divided by ε.
        max_blocks: no block is halved beyond this number.
    """
    plan: Plan = []
    room = max_blocks - len(steps)
    number = 0
    while number < len(steps):
        size = steps[number]
        if ratios[number] > 1 and room > 0:
            plan += [(number, size / 2), (number, size / 2)]
            room -= 1
        elif ratios[number] < 1 / 3 and number + 1 < len(steps) and 2 * size <= _MAX_STEP_SIZE:
            plan.append((number, 2 * size))
            number += 1
            room += 1
        else:
            plan.append((number, size))
        number += 1
    return plan


def resize_steps(steps: Sequence[float], ratios: Sequence[float], max_blocks: int, *, safety: float) -> Plan:
    """Steps of the wanted sizes over the same interval, of length Σ h.

    The wanted step of a block is h · safety · ratio^(−1/3), at least h/2 and at most 2 h. A new block copies the block
    in whose part of the interval it begins, and has its wanted step. The last one ends with the interval: a rest of
    less than half a step is added to it.

    The thesis prints the exponent p for (ε/error) in its first rule. Here it is 1/3, as in its second rule, because the
    error of a solver is of order h³. A solver derives the next step from the error of the present one. Here the errors
    of all blocks are known, and each block uses its own error.

    Args:
        steps: step sizes h of the blocks of a stage.
        ratios: their errors divided by ε.
        max_blocks: maximum number of new blocks; the wanted steps are enlarged until it suffices.
        safety: factor α.
    """
    wanted = [
        size * min(_MAX_FACTOR, max(_MIN_FACTOR, safety * max(ratio, 1e-12) ** (-1 / _ORDER)))
        for size, ratio in zip(steps, ratios, strict=True)
    ]
    walk: Callable[[Sequence[float]], Plan] = partial(_walk, list(accumulate(steps)))
    plan = walk(wanted)
    while len(plan) > max_blocks:
        wanted = [1.1 * size for size in wanted]
        plan = walk(wanted)
    return plan


def _walk(ends: Sequence[float], wanted: Sequence[float]) -> Plan:
    """Blocks from 0 to the last end; the old block of a position is the first one that ends after it."""
    plan: Plan = []
    start, number = 0.0, 0
    while number < len(ends):
        size, rest = wanted[number], ends[-1] - start
        if rest < 1.5 * size:
            size = rest
        plan.append((number, size))
        start += size
        while number < len(ends) and ends[number] <= start * (1 + 1e-9):
            number += 1
    return plan


def _runge_kutta(network: nn.Module) -> RungeKuttaNetwork:
    networks = [module for module in network.modules() if isinstance(module, RungeKuttaNetwork)]
    if len(networks) != 1:
        raise InputError("the depth of this network cannot adapt; use --network runge_kutta, or omit --adapt-depth")
    if networks[0].forward_with != "order2":
        raise InputError(
            f"expected forward_with='order2', got {networks[0].forward_with!r}; use order2, since the errors of the "
            "blocks need all four functions"
        )
    return networks[0]
