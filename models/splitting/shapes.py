"""Shapes of the tensors in a graph, and the sizes that autograd keeps for the backward pass."""

from typing import Any

from torch import Tensor, fx
from torch.autograd.graph import saved_tensors_hooks

from models.errors import NetworkError

__all__ = ["Shapes", "ShapesAndActivations"]


class Shapes(fx.Interpreter):
    """Runs a graph for the shapes of its tensors.

    Args:
        module: the graph.
        images: the batch.

    Attributes:
        shapes: by node.
        kept: elements that autograd newly keeps at each node; 0 here.

    Raises:
        NetworkError: the forward pass fails.
    """

    def __init__(self, module: fx.GraphModule, images: Tensor) -> None:
        super().__init__(module)
        self.shapes: dict[fx.Node, tuple[int, ...]] = {}
        self.kept = dict.fromkeys(module.graph.nodes, 0)
        try:
            self.run(images.clone())
        except Exception as exc:  # any code of the network's can fail, in any way
            raise NetworkError(
                f"the network's forward pass failed for images of shape {tuple(images.shape[1:])}: "
                f"{type(exc).__name__}: {exc}; pass the size that it was made for"
            ) from exc

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self.shapes[n] = tuple(result.shape)
        return result


class ShapesAndActivations(Shapes):
    """`Shapes`, with the elements that autograd keeps; memory that several nodes share is counted once."""

    def __init__(self, module: fx.GraphModule, images: Tensor) -> None:
        self._seen = {_address(tensor) for tensor in (*module.parameters(), *module.buffers())}
        self._values: list[Any] = []
        super().__init__(module, images)
        self._values.clear()

    def run_node(self, n: fx.Node) -> Any:
        def pack(tensor: Tensor) -> Tensor:
            if _address(tensor) not in self._seen:
                self._seen.add(_address(tensor))
                self.kept[n] += tensor.untyped_storage().nbytes() // tensor.element_size()
            return tensor

        with saved_tensors_hooks(pack, lambda tensor: tensor):
            result = super().run_node(n)
        # Every tensor stays alive to the end, since the address of freed memory is used again.
        self._values.append(result)
        return result


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
