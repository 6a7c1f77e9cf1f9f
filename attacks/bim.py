"""Basic Iterative Method (BIM): many small steps of FGM (Kurakin et al., 2017)."""

from torch import Tensor, nn

from attacks.common.base import Attack, ImageNoise, Norm, Target, aim, check_count, check_target
from attacks.common.steps import ascend, check_step

__all__ = ["BIM"]


class BIM(Attack):
    """`steps` steps of FGM from the image itself, each projected onto the ball and onto [0, 1].

    The default step is epsilon / steps, the α = ε/k of the thesis (E.1.1): k steps just reach the border of the ball,
    and only for pixels whose gradient never changes sign. 100 steps are ART's default. A larger step, such as
    epsilon / 10, gives higher losses. ART's default step of 0.1 is above the thesis's epsilon of 0.03; here a step
    above epsilon requires `allow_large_step`.

    The attack is deterministic; the batch size changes nothing but the rounding of the gradients.

    Args:
        step: size of one step in the attack's norm; None: epsilon / steps.
        allow_large_step: accept a step above epsilon.
        target: None, or the target class: "least_likely", "runner_up", "random", or an index (see
            `attacks.common.targets`). The steps then lower the loss of this class.
    """

    def __init__(
        self,
        *,
        epsilon: float = 0.03,
        steps: int = 100,
        step: float | None = None,
        allow_large_step: bool = False,
        norm: Norm = "linf",
        target: Target | None = None,
        batch_size: int = 128,
        seed: int = 0,
    ) -> None:
        super().__init__(norm=norm, epsilon=epsilon, batch_size=batch_size, seed=seed)
        self.epsilon: float = epsilon
        self.steps = check_count("steps", steps)
        self.step = step
        self.target = check_target(target)
        self.allow_large_step = allow_large_step
        self._step = check_step(step, epsilon, epsilon / steps, allow_large_step=allow_large_step)

    def run(self, network: nn.Module, images: Tensor, labels: Tensor, noise: ImageNoise) -> Tensor:
        """All steps, from the natural images."""
        classes, targeted = aim(self.target, network, images, labels, noise)
        return ascend(
            network,
            images,
            classes,
            images,
            norm=self.norm,
            epsilon=self.epsilon,
            step=self._step,
            steps=self.steps,
            targeted=targeted,
        )
