"""AutoAttack: APGD on two losses, FAB and Square, each where the earlier attacks failed (Croce and Hein, 2020)."""

import contextlib
import functools
import io
import sys
from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args

from torch import Tensor, nn

from attacks.common.base import Attack, ImageNoise, Norm, project
from attacks.common.checks import class_count
from attacks.common.finite import watched_logits
from attacks.libraries.art import quiet_logger
from attacks.libraries.autoattack import autoattack_library, autoattack_version
from models.errors import AttackError, InputError

__all__ = ["AutoAttack"]

_Part = Literal["apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t", "square"]
_Version = Literal["standard", "plus", "rand", "custom"]

# Minimum number of classes of each part, if more than two. The DLR loss divides by the difference of the first and the
# third logit; its targeted form uses the fourth.
_CLASSES_NEEDED = {"apgd-dlr": 3, "apgd-t": 4}


class AutoAttack(Attack):
    """The authors' AutoAttack, version "standard": APGD-CE, targeted APGD-DLR, targeted FAB, Square.

    Misclassified images, and images on which every part failed, are returned unchanged. A detector that receives these
    as attacked images cannot reach an accuracy of 100 %; check the success rate and the share of unchanged images. Each
    part runs under the same seed in every batch, so the batch size changes the noise of an image. With fewer than ten
    classes, the targeted parts try all wrong classes.

    The code is that of the package `autoattack` if it is installed, else of `pyautoattack`, the same code repackaged.

    Args:
        version: "standard", "plus", "rand" (for randomised networks) or "custom".
        attacks_to_run: the parts in order, as a list or as text such as "apgd-ce+square"; only with version "custom".
    """

    def __init__(
        self,
        *,
        epsilon: float = 0.03,
        version: _Version = "standard",
        attacks_to_run: Sequence[_Part] | str | None = None,
        norm: Norm = "linf",
        batch_size: int = 128,
        seed: int = 0,
    ) -> None:
        super().__init__(norm=norm, epsilon=epsilon, batch_size=batch_size, seed=seed)
        self.epsilon: float = epsilon
        if version not in get_args(_Version):
            raise InputError(f"expected version {', '.join(get_args(_Version))}, got {version!r}")
        parts = _parts(attacks_to_run)
        if (version == "custom") != bool(parts):
            raise InputError(
                f"expected attacks_to_run with version 'custom' only, got version {version!r} and {attacks_to_run!r}"
            )
        self.version: _Version = version
        self.attacks_to_run = parts

    @property
    def any_batch(self) -> bool:
        """See the base class."""
        return False

    def run(self, network: nn.Module, images: Tensor, labels: Tensor, noise: ImageNoise) -> Tensor:
        """One batch, attacked by the authors' code.

        Raises:
            InputError: the network has too few classes for one of the parts.
            AttackError: the library is missing or failed, or logits or a gradient of the network are not finite.
        """
        classes = class_count(network, images[:1])
        library = autoattack_library()
        repackaged = library.__name__ == "pyautoattack"
        with _quiet():
            try:
                runner = self._runner(library, repackaged, network, images)
                self._check_classes(runner.attacks_to_run, classes)
                runner.apgd_targeted.n_target_classes = min(runner.apgd_targeted.n_target_classes, classes - 1)
                runner.fab.n_target_classes = min(runner.fab.n_target_classes, classes - 1)
                if repackaged:
                    found, _ = runner.run_standard_evaluation(images, labels, batch_size=len(images))
                else:
                    found = runner.run_standard_evaluation(images, labels, bs=len(images))
            except AttackError:
                raise
            except (RuntimeError, IndexError, TypeError, AssertionError) as exc:
                raise AttackError(f"{library.__name__} failed: {exc}") from exc
        return project(found, images, self.epsilon, self.norm)

    def libraries(self) -> dict[str, str]:
        """Name and version of the authors' package."""
        return autoattack_version()

    def _runner(self, library: Any, repackaged: bool, network: nn.Module, images: Tensor) -> Any:
        norm = {"linf": "Linf", "l2": "L2"}[self.norm]
        custom = list(self.attacks_to_run or [])
        watched = functools.partial(watched_logits, network)
        if repackaged:
            return library.AutoAttack(
                watched,
                attacks=custom or None,
                device=images.device,
                eps=self.epsilon,
                norm=norm,
                seed=self.seed,
                version=self.version,
            )
        return library.AutoAttack(
            watched,
            norm=norm,
            eps=self.epsilon,
            seed=self.seed,
            verbose=False,
            attacks_to_run=custom,
            version=self.version,
            device=images.device,
        )

    def _check_classes(self, parts: Sequence[str], classes: int) -> None:
        lacking = [part for part in parts if classes < _CLASSES_NEEDED.get(part, 2)]
        if lacking:
            able = [part for part in get_args(_Part) if classes >= _CLASSES_NEEDED.get(part, 2)]
            raise InputError(
                f"AutoAttack {self.version!r} runs {', '.join(lacking)}, whose loss needs more than the network's "
                f"{classes} classes; use version='custom' with attacks_to_run out of {', '.join(able)}"
            )


def _parts(attacks_to_run: Any) -> tuple[str, ...] | None:
    """The parts by name, from a sequence of names or from text with "+" between them; None for None."""
    if attacks_to_run is None:
        return None
    parts = attacks_to_run.split("+") if isinstance(attacks_to_run, str) else attacks_to_run
    if not isinstance(parts, Sequence) or not all(isinstance(part, str) and part in get_args(_Part) for part in parts):
        raise InputError(
            f"expected attacks_to_run as names out of {', '.join(get_args(_Part))}, in a list or as text such as "
            f"apgd-ce+square, got {attacks_to_run!r}"
        )
    return tuple(parts)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress output, and restore the trace function of debuggers and coverage tools, which the library removes."""
    tracer = sys.gettrace()
    try:
        with quiet_logger("auto-attack"), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        sys.settrace(tracer)
