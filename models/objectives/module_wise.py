"""Module-wise: K consecutive modules, each trained on a loss of its own (TRGL and VanGL, the thesis, section 4)."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.datasets.base import ImageDataset
from models.errors import InputError, NetworkError
from models.loading import NetworkSpec
from models.normalization import Normalized
from models.objectives._schedule import module_of_each_epoch
from models.objectives.base import Finished, Objective, ObjectiveValue, backward, check_label_smoothing
from models.options import check_choice, check_count, check_number
from models.residuals import Discovery, discover, evaluation_mode, record_residues
from models.splitting.auxiliary import AuxiliaryClassifier
from models.splitting.early_exit import EarlyExitNetwork
from models.splitting.splitting import SplitNetwork, split_network

__all__ = ["ModuleWise"]


@dataclass(frozen=True)
class _Unit:
    """A module of the network, what judges it (the last one gives logits by itself), and its residual branches."""

    module: nn.Module
    classifier: nn.Module | None
    discovery: Discovery | None


class ModuleWise(Objective):
    """Module k minimises the cross-entropy of its own auxiliary classifier, plus the weight of its transport cost.

    A module's cost is the sum over its residual branches of the mean of |r|² over batch and dimensions, as in
    `least_action`. Equation 31 sums over the dimensions: for branches of d numbers, its τ is d times the τ here. A
    module without residual branches has no cost; `without_cost` names those. In a network that has no residual
    additions at all, the differences x_{m+1} − x_m over layers that keep the shape are the residues (section 4.1).

    The weight of the cost is 1/(2τ) in the first half of the modules and 1/(4τ) in the second (section 4.4.3); or 1/λ
    by equation 33 divided by λ, where a λ of each module's own grows by `increase` times the module's latest
    cross-entropy after every `update_every` batches; or 0 (VanGL), in which case residues are not recorded.

    Args:
        modules: K.
        split: "depth" or "weight", see `models.splitting.splitting.split_network`.
        mode: "parallel" trains all modules on every batch, one after the other, with one module's graph alive at a
            time; "sequential" trains the first module to its end, then the next; "multi_lap" does so `laps` times.
        laps: of "multi_lap", at least 2.
        growth: in the sequential modes, module k (from 0) has epochs in proportion to 1 + growth · k; the thesis's
            50 + 10 k is a growth of 0.2.
        tau: τ; None for no regularisation, unless `initial_weight` is given.
        initial_weight: λ of equation 33 at the start; not beside `tau`.
        increase, update_every: h and s of equation 33.
        label_smoothing: of every cross-entropy.
        held_out: share of the training images that are not trained on. With it, `finish` gives the network that stops
            at the module which is most often right on these; at 0 it gives the whole network.
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
            raise InputError("expected tau or initial_weight, which are two ways to weigh the cost, got both")
        self._units: tuple[_Unit, ...] = ()
        self._split: SplitNetwork | None = None
        self._schedule: tuple[int, ...] = ()
        self._current = 0
        self._weights = [self.initial_weight or 0.0] * self.modules
        self._batches = [0] * self.modules

    # --- before training

    def prepare(self, network: nn.Module, image_shape: tuple[int, int, int], epochs: int) -> None:
        """Splits the network, makes the auxiliary classifiers and shares out the epochs.

        Raises:
            NetworkError: the network cannot be split into so many modules, or none of them has residual branches to
                regularise.
            InputError: fewer epochs than modules times laps; or `held_out`, and the network stops early already.
        """
        if self.held_out and isinstance(getattr(network, "network", network), EarlyExitNetwork):
            raise InputError(
                "expected a network that does not stop early yet, since module_wise with held_out chooses where it "
                "stops; got one that does: leave held_out out, or take the network that it was cut from"
            )
        if self.mode != "parallel":
            self._schedule = module_of_each_epoch(epochs, self.modules, laps=self.laps, growth=self.growth)
        self._split = split = split_network(network, image_shape, self.modules, self.split)
        inputs = [image_shape, *(boundary.shape for boundary in split.boundaries)]
        discoveries = self._discoveries(network, image_shape, split, inputs)
        device = next(network.parameters()).device
        classifiers = [AuxiliaryClassifier(boundary, split.outputs).to(device) for boundary in split.boundaries]
        self._units = tuple(map(_Unit, split.modules, [*classifiers, None], discoveries))
        self._set_modes()

    def _discoveries(
        self,
        network: nn.Module,
        image_shape: tuple[int, int, int],
        split: SplitNetwork,
        inputs: Sequence[tuple[int, ...]],
    ) -> list[Discovery | None]:
        if not self._regularised:
            return [None] * self.modules
        kind = discover(network, image_shape).branches[0].kind
        found = [_branches(module, shape, kind) for module, shape in zip(split.modules, inputs, strict=True)]
        if not any(found):
            raise NetworkError(
                "expected residual branches inside the modules, found none in any; ask for fewer modules, or leave "
                "tau and initial_weight out"
            )
        return found

    @property
    def _regularised(self) -> bool:
        return self.tau is not None or self.initial_weight is not None

    @property
    def without_cost(self) -> tuple[int, ...]:
        """The modules, from 1, that have no residual branch; after `prepare`, and empty without regularisation."""
        missing = (number for number, unit in enumerate(self._units, start=1) if unit.discovery is None)
        return tuple(missing) if self._regularised else ()

    @property
    def trained_per_epoch(self) -> tuple[int, ...]:
        """Which module, from 1, each epoch trains in the sequential modes; after `prepare`, empty in parallel."""
        return tuple(number + 1 for number in self._schedule)

    def parameters(self) -> Sequence[nn.Parameter]:
        return [p for unit in self._units if unit.classifier is not None for p in unit.classifier.parameters()]

    def begin_epoch(self, epoch: int) -> None:
        if self._schedule:
            self._current = self._schedule[epoch]
        self._set_modes()

    def _set_modes(self) -> None:
        """Training mode for what is trained, evaluation mode for the modules before."""
        for number, unit in enumerate(self._units):
            if unit.classifier is not None:
                unit.classifier.train(self.mode == "parallel" or number == self._current)
            if number < self._current:
                unit.module.eval()
        # Last, since a layer without parameters may serve several modules.
        for unit in self._units if self.mode == "parallel" else self._units[self._current : self._current + 1]:
            unit.module.train()

    # --- training

    def evaluate(self, network: nn.Module, images: Tensor, labels: Tensor) -> ObjectiveValue:
        """The sum of the losses of all modules that are trained, each of which reaches its own module alone."""
        return self._value(network, images, labels, learn=False)

    def accumulate(self, network: nn.Module, images: Tensor, labels: Tensor) -> ObjectiveValue:
        """`evaluate`, with each module's backward pass taken before the next module's forward pass."""
        return self._value(network, images, labels, learn=True)

    def _value(self, network: nn.Module, images: Tensor, labels: Tensor, *, learn: bool) -> ObjectiveValue:
        if not self._units:
            _, channels, height, width = images.shape
            self.prepare(network, (channels, height, width), self.modules * self.laps)
        numbers = range(self.modules) if self.mode == "parallel" else range(self._current, self._current + 1)
        with torch.no_grad():
            for unit in self._units[: numbers[0]]:
                images = unit.module(images)
        losses: list[Tensor] = []
        measures: dict[str, Tensor] = {}
        for number in numbers:
            # The step's own tensors go when it returns: no two modules' graphs are alive at once.
            images, value = self._step(number, images, labels, learn=learn)
            losses.append(value.loss)
            measures |= value.measures
        return ObjectiveValue(torch.stack(losses).sum(), value.logits, measures)

    def _step(self, number: int, inputs: Tensor, labels: Tensor, *, learn: bool) -> tuple[Tensor, ObjectiveValue]:
        """The module's outputs, without a graph, and what it costs."""
        unit = self._units[number]
        with ExitStack() as stack:
            if unit.discovery is not None:
                recording = stack.enter_context(record_residues(unit.module, unit.discovery))
            outputs = unit.module(inputs)
        logits = outputs if unit.classifier is None else unit.classifier(outputs)
        cross_entropy = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        loss = cross_entropy
        name = f"module_{number + 1}"
        measures = {
            f"{name}_loss": cross_entropy.detach(),
            f"{name}_accuracy": (logits.detach().argmax(1) == labels).float().mean(),
        }
        if unit.discovery is not None:
            # ‖r‖²/d of each image and branch, taken as residues pass: their gradients need not all be alive at once.
            cost = recording.statistics[:, ::2].mean(0).sum()
            loss = cross_entropy + self._cost_weight(number) * cost
            measures[f"{name}_cost"] = cost.detach()
        if learn:
            backward(loss)
            loss = loss.detach()
        return outputs.detach(), ObjectiveValue(loss, logits.detach(), measures)

    def _cost_weight(self, number: int) -> float:
        if self.tau is not None:
            return 1 / (2 * self.tau) if 2 * number < self.modules else 1 / (4 * self.tau)
        return 1 / self._weights[number]

    def after_step(self, value: ObjectiveValue) -> None:
        """λ_{k,i+1} = λ_{k,i} + h L_k (equation 33) in the modules that were trained."""
        if self.initial_weight is None:
            return
        for number in range(self.modules):
            loss = value.measures.get(f"module_{number + 1}_loss")
            if loss is None:
                continue
            self._batches[number] += 1
            if self._batches[number] % self.update_every == 0:
                self._weights[number] += self.increase * float(loss)

    # --- what a resumed run needs

    def state(self) -> dict[str, Any]:
        return {"weights": list(self._weights), "batches": list(self._batches)}

    def load_state(self, state: dict[str, Any]) -> None:
        self._weights = [float(weight) for weight in state["weights"]]
        self._batches = [int(count) for count in state["batches"]]

    def tensors(self) -> dict[str, Tensor]:
        return {
            f"{number}.{name}": tensor
            for number, unit in enumerate(self._units)
            if unit.classifier is not None
            for name, tensor in unit.classifier.state_dict().items()
        }

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        for number, unit in enumerate(self._units):
            if unit.classifier is not None:
                prefix = f"{number}."
                own = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
                unit.classifier.load_state_dict(own)

    # --- after training

    def module_accuracies(self, data: ImageDataset, *, batch_size: int = 500) -> list[float]:
        """Share of the images that each module is right on, by its own classifier, in evaluation mode."""
        assert self._units, "prepare() comes before the first accuracy"
        everything = nn.ModuleList(nn.ModuleList([u.module, u.classifier or nn.Identity()]) for u in self._units)
        device = next(everything.parameters()).device
        correct = [0] * self.modules
        with evaluation_mode(everything), torch.inference_mode():
            for start in range(0, len(data), batch_size):
                chosen = slice(start, start + batch_size)
                x = data.tensor(chosen).to(device, memory_format=torch.channels_last)
                labels = torch.from_numpy(data.labels[chosen]).to(device)
                for number, unit in enumerate(self._units):
                    x = unit.module(x)
                    logits = x if unit.classifier is None else unit.classifier(x)
                    correct[number] += int((logits.argmax(1) == labels).sum())
        return [count / len(data) for count in correct]

    def finish(
        self, network: Normalized, spec: NetworkSpec, held_out: ImageDataset | None, test: ImageDataset
    ) -> Finished:
        """The network that stops at the module that is most often right on the held-out images, the first of equals.

        Without held-out images it is the whole network: the thesis reports the best module on the test images, which
        is a choice by what it is judged on.
        """
        on_test = self.module_accuracies(test)
        facts: dict[str, Any] = {"module_test_accuracies": on_test}
        summary = [f"test accuracy of each module: {_percentages(on_test)}"]
        best = self.modules
        if held_out is not None:
            accuracies = self.module_accuracies(held_out)
            best = accuracies.index(max(accuracies)) + 1
            facts |= {"module_held_out_accuracies": accuracies, "stopped_at_module": best}
            summary.append(f"on {len(held_out)} held-out training images: {_percentages(accuracies)}")
            summary.append(f"kept: the network that stops at module {best} of {self.modules}")
        if missing := self.without_cost:
            facts["modules_without_cost"] = list(missing)
            summary.append(f"no residual branch to regularise in module {', '.join(map(str, missing))}")
        if best < self.modules:
            network, stop = self.stopped(network, best, spec.image_shape)
            spec = replace(spec, stop=stop)
        return Finished(network, spec, facts, tuple(summary))

    def stopped(
        self, network: Normalized, module: int, image_shape: tuple[int, int, int]
    ) -> tuple[Normalized, int | None]:
        """The network that ends with that module, from 1, and its classifier; and its boundary's number.

        It shares layers with the network that was trained. Behind the last module that is the network itself, and None.
        """
        assert self._split is not None, "prepare() comes before a network that stops"
        if module == self.modules:
            return network, None
        boundary = self._split.boundaries[module - 1].number
        classifier = self._units[module - 1].classifier
        stopped = EarlyExitNetwork(
            network.network,
            image_shape,
            boundary=boundary,
            num_classes=self._split.outputs,
            classifier=classifier,
        )
        result = Normalized(stopped, network.mean.flatten().tolist(), network.std.flatten().tolist())
        return result.to(network.mean.device).train(network.training).requires_grad_(False), boundary


def _percentages(accuracies: Sequence[float]) -> str:
    return ", ".join(f"{accuracy:.2%}" for accuracy in accuracies)


def _branches(module: nn.Module, shape: tuple[int, ...], kind: str) -> Discovery | None:
    """The residual branches inside a module, of the kind that the whole network has."""
    try:
        found = discover(module, shape)  # type: ignore[arg-type]  # a boundary may have fewer axes than an image
    except NetworkError:
        return None
    branches = tuple(branch for branch in found.branches if branch.kind == kind)
    return Discovery(branches, found.skipped_branches) if branches else None
