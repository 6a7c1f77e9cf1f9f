"""Module-wise: each of K consecutive modules has a loss and an auxiliary classifier of its own (TRGL, VanGL)."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.datasets.base import ImageDataset
from models.errors import InputError
from models.loading import NetworkSpec
from models.normalization import Normalized
from models.objectives._cost_weights import CostWeights
from models.objectives._epochs import module_of_each_epoch
from models.objectives.base import Finished, Objective, ObjectiveValue, backward, check_label_smoothing
from models.options import check_choice, check_count, check_number
from models.splitting.early_exit import EarlyExitNetwork
from models.splitting.local_modules import LocalModule, accuracies, exit_after, local_modules
from models.splitting.splitting import SplitNetwork

__all__ = ["ModuleWise"]


class ModuleWise(Objective):
    """Module k minimises the cross-entropy of its own auxiliary classifier, plus its weighted transport cost.

    It is the training of the thesis's section 4. The cost of a module is the sum over its residual branches of the mean
    of |r|² over batch and dimensions, as in `least_action`. Equation 31 sums over the dimensions: for branches of d
    numbers, its τ is d times the τ here. A module without residual branches has no cost; `without_cost` lists them. In
    a network without residual additions, the residues are the differences x_{m+1} − x_m over layers that keep the shape
    (section 4.1).

    The weight of the cost is 1/(2τ) in the first half of the modules and 1/(4τ) in the second (section 4.4.3). Or it is
    1/λ, by equation 33 divided by λ: each module has its own λ. After every `update_every` batches it grows by
    `increase` times the module's cross-entropy on the next batch, whose step uses the new λ. Or it is 0 (VanGL), and
    residues are not recorded.

    Args:
        modules: K.
        split: "depth" or "weight", see `models.splitting.splitting.split_network`.
        mode: "parallel" trains all modules on every batch, one after the other, with the graph of one module in memory
            at a time; "sequential" trains the first module completely, then the next; "multi_lap" does so `laps` times.
        laps: of "multi_lap", at least 2.
        growth: in the sequential modes, the epochs of module k (from 0) are in proportion to 1 + growth · k; the
            thesis's 50 + 10 k is a growth of 0.2.
        tau: τ; None for no regularisation, unless `initial_weight` is given.
        initial_weight: λ of equation 33 at the start; excludes `tau`.
        increase, update_every: h and s of equation 33.
        label_smoothing: of every cross-entropy.
        held_out: share of the training images that are reserved for validation. With it, `finish` returns the network
            that ends at the module with the highest validation accuracy; with 0, it returns the whole network.
    """

    def __init__(
        self,
        *,
        modules: int = 4,
        split: Literal["depth", "weight"] = "depth",
        mode: Literal["parallel", "sequential", "multi_lap"] = "parallel",
        laps: int = 1,
        growth: float = 0.0,
        tau: float | None = None,
        initial_weight: float | None = None,
        increase: float = 1.0,
        update_every: int = 50,
        label_smoothing: float = 0.0,
        held_out: float = 0.0,
    ) -> None:
        self.modules = check_count("modules", modules, least=2)
        self.split = check_choice("split", split, ("depth", "weight"))
        self.mode = check_choice("mode", mode, ("parallel", "sequential", "multi_lap"))
        self.laps = check_count("laps", laps)
        self.growth = check_number("growth", growth, least=0)
        self.tau = None if tau is None else check_number("tau", tau, above=0)
        self.initial_weight = (
            None if initial_weight is None else check_number("initial_weight", initial_weight, above=0)
        )
        self.increase = check_number("increase", increase, least=0)
        self.update_every = check_count("update_every", update_every)
        self.label_smoothing = check_label_smoothing(label_smoothing)
        self.held_out = check_number("held_out", held_out, least=0)
        if self.held_out > 0.5:
            raise InputError(f"expected held_out of at most 0.5, got {held_out}")
        if (self.mode == "multi_lap") != (self.laps > 1):
            raise InputError(
                f"expected laps of at least 2 with mode=multi_lap and 1 without, got laps={laps} with mode={mode}"
            )
        if self.mode == "parallel" and self.growth:
            raise InputError(f"expected growth with mode=sequential or multi_lap, got growth={growth} with {mode}")
        if self.tau is not None and self.initial_weight is not None:
            raise InputError("tau and initial_weight exclude each other; omit one")
        self._modules: tuple[LocalModule, ...] = ()
        self._split: SplitNetwork | None = None
        self._schedule: tuple[int, ...] = ()
        self._current = 0
        self._cost_weights = CostWeights(
            self.modules, tau=self.tau, initial=self.initial_weight, increase=self.increase,
            update_every=self.update_every,
        )  # fmt: skip

    # --- before training

    def prepare(self, network: nn.Module, image_shape: tuple[int, int, int], epochs: int) -> None:
        """Split the network, make the auxiliary classifiers and distribute the epochs.

        Raises:
            NetworkError: the network cannot be split into so many modules, or regularisation is on and no module has a
                residual branch.
            InputError: fewer epochs than modules times laps; or `held_out`, and the network already exits early.
        """
        if self.held_out and isinstance(getattr(network, "network", network), EarlyExitNetwork):
            raise InputError(
                "the network already exits early, and module_wise with held_out chooses an exit; omit held_out, or "
                "use the original network"
            )
        if self.mode != "parallel":
            self._schedule = module_of_each_epoch(epochs, self.modules, laps=self.laps, growth=self.growth)
        self._split, self._modules = local_modules(
            network, image_shape, self.modules, self.split, with_cost=self._regularised
        )
        self._set_modes()

    @property
    def local_modules(self) -> tuple[LocalModule, ...]:
        """The modules with their classifiers and branches; after `prepare`."""
        return self._modules

    @property
    def _regularised(self) -> bool:
        return self.tau is not None or self.initial_weight is not None

    @property
    def without_cost(self) -> tuple[int, ...]:
        """Numbers, from 1, of the modules without a residual branch; after `prepare`, empty without regularisation."""
        missing = (number for number, each in enumerate(self._modules, start=1) if each.discovery is None)
        return tuple(missing) if self._regularised else ()

    @property
    def _classifiers(self) -> dict[int, nn.Module]:
        return {number: each.classifier for number, each in enumerate(self._modules) if each.classifier is not None}

    def parameters(self) -> Sequence[nn.Parameter]:
        return [p for classifier in self._classifiers.values() for p in classifier.parameters()]

    def begin_epoch(self, epoch: int) -> None:
        if self._schedule:
            self._current = self._schedule[epoch]
        self._set_modes()

    def _set_modes(self) -> None:
        """Training mode for the trained modules, evaluation mode for those before."""
        parallel = self.mode == "parallel"
        for number, classifier in self._classifiers.items():
            classifier.train(parallel or number == self._current)
        for each in self._modules[: self._current]:
            each.module.eval()
        # At the end, since several modules may share a layer without parameters.
        for each in self._modules if parallel else self._modules[self._current : self._current + 1]:
            each.module.train()

    # --- training

    def evaluate(self, network: nn.Module, images: Tensor, labels: Tensor) -> ObjectiveValue:
        """The sum of the losses of all trained modules; the gradient of a loss reaches only its own module."""
        return self._value(network, images, labels, learn=False)

    def accumulate(self, network: nn.Module, images: Tensor, labels: Tensor) -> ObjectiveValue:
        """`evaluate`, with the backward pass of each module before the forward pass of the next."""
        return self._value(network, images, labels, learn=True)

    def _value(self, network: nn.Module, images: Tensor, labels: Tensor, *, learn: bool) -> ObjectiveValue:
        if not self._modules:
            _, channels, height, width = images.shape
            self.prepare(network, (channels, height, width), self.modules * self.laps)
        numbers = range(self.modules) if self.mode == "parallel" else range(self._current, self._current + 1)
        with torch.no_grad():
            for each in self._modules[: numbers[0]]:
                images = each.module(images)
        losses: list[Tensor] = []
        measures: dict[str, Tensor] = {}
        for number in numbers:
            # The tensors of a step are freed when it returns, so one graph at a time is in memory.
            images, value = self._step(number, images, labels, learn=learn)
            losses.append(value.loss)
            measures |= value.measures
        return ObjectiveValue(torch.stack(losses).sum(), value.logits, measures)

    def _step(self, number: int, inputs: Tensor, labels: Tensor, *, learn: bool) -> tuple[Tensor, ObjectiveValue]:
        """The module's outputs, without a graph, and its value."""
        outputs, logits, cost = self._modules[number].run(inputs)
        cross_entropy = loss = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        name = f"module_{number + 1}"
        measures = {
            f"{name}_loss": cross_entropy.detach(),
            f"{name}_accuracy": (logits.detach().argmax(1) == labels).float().mean(),
        }
        if cost is not None:
            loss = cross_entropy + self._cost_weights.weight(number, cross_entropy.detach()) * cost
            measures[f"{name}_cost"] = cost.detach()
        if learn:
            backward(loss)
            loss = loss.detach()
        return outputs.detach(), ObjectiveValue(loss, logits.detach(), measures)

    def after_step(self, value: ObjectiveValue) -> None:
        """Update the multipliers of the trained modules (equation 33)."""
        if self.initial_weight is not None:
            losses = [value.measures.get(f"module_{number + 1}_loss") for number in range(self.modules)]
            self._cost_weights.after_step([None if loss is None else float(loss) for loss in losses])

    # --- the state of a run

    def state(self) -> dict[str, Any]:
        return self._cost_weights.state()

    def load_state(self, state: dict[str, Any]) -> None:
        self._cost_weights.load_state(state)

    def tensors(self) -> dict[str, Tensor]:
        return {
            f"{number}.{name}": tensor
            for number, classifier in self._classifiers.items()
            for name, tensor in classifier.state_dict().items()
        }

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        for number, classifier in self._classifiers.items():
            prefix = f"{number}."
            own = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
            classifier.load_state_dict(own)

    # --- after training

    def module_accuracies(self, data: ImageDataset, *, batch_size: int | None = None) -> list[float]:
        """Share of the images that each module classifies correctly, by its own classifier, in evaluation mode."""
        assert self._modules, "prepare() comes before the first accuracy"
        return accuracies(self._modules, data, batch_size=batch_size)

    def finish(
        self, network: Normalized, spec: NetworkSpec, held_out: ImageDataset | None, test: ImageDataset
    ) -> Finished:
        """The network that ends at the module with the highest validation accuracy, the first of equals.

        Without validation images it is the whole network: the thesis reports the best module on the test images, which
        is a choice by the images of the final evaluation.
        """
        on_test = self.module_accuracies(test)
        details: dict[str, Any] = {"module_test_accuracies": on_test}
        summary = [f"test accuracy of each module: {_percentages(on_test)}"]
        best = self.modules
        if held_out is not None:
            on_held_out = self.module_accuracies(held_out)
            best = on_held_out.index(max(on_held_out)) + 1
            details |= {"module_held_out_accuracies": on_held_out, "stopped_at_module": best}
            summary.append(f"on {len(held_out)} held-out training images: {_percentages(on_held_out)}")
            summary.append(f"kept: the network that stops at module {best} of {self.modules}")
        if missing := self.without_cost:
            details["modules_without_cost"] = list(missing)
            summary.append(f"no residual branch to regularise in module {', '.join(map(str, missing))}")
        if best < self.modules:
            network, stop = self.exit_after(network, best, spec.image_shape)
            spec = replace(spec, stop=stop)
        return Finished(network, spec, details, tuple(summary))

    def exit_after(
        self, network: Normalized, module: int, image_shape: tuple[int, int, int]
    ) -> tuple[Normalized, int | None]:
        """The network that ends with that module, from 1, and its classifier; and the number of its boundary.

        It shares layers with the trained network. After the last module, it is the network itself and None.
        """
        assert self._split is not None, "prepare() comes before an early exit"
        return exit_after(network, self._split, self._modules, module, image_shape)


def _percentages(accuracies: Sequence[float]) -> str:
    return ", ".join(f"{accuracy:.2%}" for accuracy in accuracies)
