"""Watching a network's modules for a while: the one place that registers hooks, or changes a network's mode.

All context managers leave the network exactly as they found it, also after an exception.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from models.errors import NetworkError

__all__ = ["Entered", "Left", "changing_input", "evaluation_mode", "require_watchable", "watching"]

Entered = Callable[[tuple[Any, ...], Mapping[str, Any]], None]
Left = Callable[[Any], None]


@contextmanager
def evaluation_mode(network: nn.Module) -> Iterator[None]:
    """Sets every module to evaluation mode, and every module's own mode back afterwards.

    The flags are set one by one: a network may hold some modules in another mode than itself (frozen batch
    normalisation), or do more than set flags in a ``train()`` of its own.
    """
    modes = [(module, module.training) for module in network.modules()]
    try:
        for module, _ in modes:
            module.training = False
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def watching(watched: Iterable[tuple[nn.Module, Entered | None, Left | None]]) -> Iterator[None]:
    """Calls ``entered(args, kwargs)`` before and ``left(output)`` after each pass through each of the modules.

    ``left`` is called with None when the module raised. What the callbacks return is ignored: a watcher cannot change
    what the network computes.
    """
    with ExitStack() as stack:
        for module, entered, left in watched:
            if entered is not None:
                handle = module.register_forward_pre_hook(_before(entered), with_kwargs=True)
                stack.callback(handle.remove)
            if left is not None:
                handle = module.register_forward_hook(_after(left), always_call=True)
                stack.callback(handle.remove)
        yield


@contextmanager
def changing_input(module: nn.Module, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Has every pass through `module` take ``change(x)`` where it was given a tensor x as its first argument."""

    def hook(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (change(args[0]), *args[1:]) if args and isinstance(args[0], Tensor) else args

    handle = module.register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _before(entered: Entered) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
    def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        entered(args, kwargs)

    return hook


def _after(left: Left) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
    def hook(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        left(output)

    return hook


def require_watchable(network: nn.Module) -> None:
    """Refuses networks whose modules cannot be watched one by one.

    Raises:
        NetworkError: the network is compiled, so that hooks on its modules would be passed over in silence.
    """
    for name, module in network.named_modules():
        if hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None:
            raise NetworkError(
                f"expected a network that is not compiled, got one whose module {name or '(the whole)'!r} is; "
                "pass the uncompiled network, and compile WithStatistics(network) instead"
            )
