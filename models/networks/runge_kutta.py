"""Networks whose blocks are the steps of an adaptive Runge–Kutta method (the thesis, section 6.2.1 and appendix A.3).

A block of step size h has up to four functions f_i and computes p_i = f_i(x + h Σ_j a_ij p_j) and y = x + h Σ_i b_i p_i
with the coefficients of Bogacki and Shampine (equations 43, 46 and 47; the p_{n,2} of equation 43 is p_2). Weights b of
four methods share the p_i: Euler's, the midpoint method, and two methods of order 3 and 2, whose difference estimates
the error of the step. Open details are chosen here: f_i is the branch of a pre-activation block, and the layers around
the blocks are those of `models.networks.resnet`, so that three Euler blocks per stage are a ResNet-20.
"""

from collections.abc import Iterable, Sequence
from copy import deepcopy
from itertools import zip_longest

import torch
from torch import Tensor, nn

from models.networks.resnet import PreActivationBlock, normalization

__all__ = ["runge_kutta"]

OUTPUTS: dict[str, tuple[float, ...]] = {
    "euler": (1.0,),
    "midpoint": (0.0, 1.0),
    "order3": (2 / 9, 1 / 3, 4 / 9),
    "order2": (7 / 24, 1 / 4, 1 / 3, 1 / 8),
}
_POINTS: tuple[tuple[float, ...], ...] = ((), (1 / 2,), (0.0, 3 / 4), OUTPUTS["order3"])
_MEAN = tuple(sum(column) / len(OUTPUTS) for column in zip_longest(*OUTPUTS.values(), fillvalue=0.0))
_ERROR = tuple(a - b for a, b in zip((*OUTPUTS["order3"], 0.0), OUTPUTS["order2"], strict=True))


class RungeKuttaBlock(nn.Module):
    """One step from x to y, tensors of one shape with the batch axis in front. The residue is y − x.

    Args:
        functions: f_1, f_2, …; as many as the output needs, or all four.
        forward_with: the output, a name in `OUTPUTS`.
        step_size: h.
        ensemble: the output is the mean of all four; needs four functions.
    """

    step: Tensor

    def __init__(
        self, functions: Iterable[nn.Module], forward_with: str, step_size: float = 1.0, *, ensemble: bool = False
    ) -> None:
        super().__init__()
        self.functions = nn.ModuleList(functions)
        self.forward_with = forward_with
        self.ensemble = ensemble
        self.register_buffer("step", torch.tensor(0.0), persistent=False)
        self.step_size = step_size

    @property
    def step_size(self) -> float:
        """h."""
        return self._step_size

    @step_size.setter
    def step_size(self, value: float) -> None:
        self._step_size = value
        self.step.fill_(value)

    def forward(self, x: Tensor) -> Tensor:
        weights = _MEAN if self.ensemble else OUTPUTS[self.forward_with]
        return x + self._combined(self._velocities(x, len(weights)), weights)

    def outputs(self, x: Tensor) -> dict[str, Tensor]:
        """y of all four methods by name; needs four functions."""
        velocities = self._velocities(x, 4)
        return {name: x + self._combined(velocities, weights) for name, weights in OUTPUTS.items()}

    def error(self, x: Tensor) -> Tensor:
        """y_order3 − y_order2; needs four functions."""
        return self._combined(self._velocities(x, 4), _ERROR)

    def _velocities(self, x: Tensor, count: int) -> list[Tensor]:
        """p_1 to p_count."""
        velocities: list[Tensor] = []
        for function, coefficients in zip(self.functions[:count], _POINTS, strict=False):
            point = x
            # addcmul and not +: the sum with the increment is the only residual addition of the block.
            for coefficient, velocity in zip(coefficients, velocities, strict=True):
                if coefficient:
                    point = torch.addcmul(point, velocity, self.step, value=coefficient)
            velocities.append(function(point))
        return velocities

    def _combined(self, velocities: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
        """The increment h Σ b_i p_i."""
        used = [(weight, velocity) for weight, velocity in zip(weights, velocities, strict=False) if weight]
        increment = used[0][1] * (self.step * used[0][0])
        for weight, velocity in used[1:]:
            increment = torch.addcmul(increment, velocity, self.step, value=weight)
        return increment

    def extra_repr(self) -> str:
        return f"{'ensemble' if self.ensemble else self.forward_with}, step_size={self.step_size:g}"


class RungeKuttaNetwork(nn.Module):
    """Logits ``(B, K)`` of images ``(B, 3, H, W)``; the blocks of a stage can be replaced during training.

    Args:
        steps: step sizes of the blocks, stage by stage. The filters double from stage to stage.
        num_classes: K.
        filters: channels of the first stage.
        forward_with: the output that every block passes on, a name in `OUTPUTS`.
        ensemble: the last block passes on the mean of all four outputs.
        batch_normalization: as in `PreActivationBlock`.
    """

    def __init__(
        self,
        steps: Sequence[Sequence[float]],
        num_classes: int,
        *,
        filters: int,
        forward_with: str,
        ensemble: bool,
        batch_normalization: bool,
    ) -> None:
        super().__init__()
        self.forward_with = forward_with
        self.ensemble = ensemble
        bias = not batch_normalization
        self.stem = nn.Conv2d(3, filters, 3, padding=1, bias=bias)
        self.stages = nn.Sequential()
        channels = filters
        for number, sizes in enumerate(steps):
            if number > 0:
                self.stages.add_module(f"transition{number}", nn.Conv2d(channels, 2 * channels, 1, 2, bias=bias))
                channels *= 2
            blocks = nn.Sequential()
            for position, size in enumerate(sizes):
                last = number == len(steps) - 1 and position == len(sizes) - 1
                count = 4 if ensemble and last else len(OUTPUTS[forward_with])
                functions = [
                    PreActivationBlock(channels, batch_normalization=batch_normalization).branch for _ in range(count)
                ]
                blocks.append(RungeKuttaBlock(functions, forward_with, size, ensemble=ensemble and last))
            self.stages.add_module(f"stage{number + 1}", blocks)
        self.head = nn.Sequential(
            normalization(channels, batch_normalization), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(channels, num_classes),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.stages(self.stem(x)))
        return logits

    def blocks(self) -> list[list[RungeKuttaBlock]]:
        """The blocks, stage by stage."""
        stages = (module for name, module in self.stages.named_children() if name.startswith("stage"))
        return [[block for block in stage.children() if isinstance(block, RungeKuttaBlock)] for stage in stages]

    def step_sizes(self) -> list[list[float]]:
        """The step sizes of the blocks, stage by stage."""
        return [[block.step_size for block in stage] for stage in self.blocks()]

    def use(self, forward_with: str, *, ensemble: bool) -> None:
        """Replace the output that the blocks pass on; they need its functions."""
        self.forward_with, self.ensemble = forward_with, ensemble
        blocks = [block for stage in self.blocks() for block in stage]
        for block in blocks:
            block.forward_with = forward_with
            block.ensemble = ensemble and block is blocks[-1]

    def replace_blocks(self, plan: Sequence[Sequence[tuple[int, float]]]) -> None:
        """Replace the blocks of every stage.

        Args:
            plan: for each new block of each stage, the number of the old block in its stage and the new step size. The
                first use of an old block keeps its parameters; every further use copies them.
        """
        for number, (old, new) in enumerate(zip(self.blocks(), plan, strict=True), start=1):
            blocks = nn.Sequential()
            used: set[int] = set()
            for source, size in new:
                block = deepcopy(old[source]) if source in used else old[source]
                used.add(source)
                block.step_size = size
                blocks.append(block)
            setattr(self.stages, f"stage{number}", blocks)
        self.use(self.forward_with, ensemble=self.ensemble)


def parse_steps(text: str) -> list[list[float]]:
    """Step sizes, stage by stage, from text such as "1,0.5,0.5/1/1".

    Raises:
        ValueError: a part is no number.
    """
    return [[float(part) for part in stage.split(",")] for stage in text.split("/")]


def format_steps(steps: Iterable[Iterable[float]]) -> str:
    """The text of `parse_steps` for these step sizes, exactly."""
    return "/".join(",".join(repr(size).removesuffix(".0") for size in stage) for stage in steps)


def runge_kutta(
    num_classes: int = 10,
    *,
    steps: str = "1/1/1",
    forward_with: str = "order2",
    ensemble: bool = False,
    filters: int = 16,
    batch_normalization: bool = True,
) -> nn.Module:
    """Runge–Kutta blocks of step sizes steps=1,0.5,0.5/1/1, stage by stage, for small images; the depth can adapt."""
    return RungeKuttaNetwork(
        parse_steps(steps), num_classes, filters=filters, forward_with=forward_with, ensemble=ensemble,
        batch_normalization=batch_normalization,
    )  # fmt: skip
