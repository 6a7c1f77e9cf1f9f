"""Temporary hooks on a network's modules, and its temporary evaluation mode.

The context managers leave the network unchanged, also after an exception.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import count
from typing import Any

from torch import Tensor, nn

from models.errors import NetworkError

__all__ = ["Entered", "Left", "changing_input", "evaluation_mode", "require_uncompiled", "module_hooks"]

Entered = Callable[[tuple[Any, ...], Mapping[str, Any]], None]
Left = Callable[[Any], None]


@contextmanager
def evaluation_mode(network: nn.Module) -> Iterator[None]:
    """Set every module to evaluation mode, and restore each module's own mode afterwards.

    The flags are set one by one: some modules of a network may be in another mode than the network (frozen batch
    normalisation), and a ``train()`` of its own may do more than set flags.
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
def module_hooks(hooks: Iterable[tuple[nn.Module, Entered | None, Left | None]]) -> Iterator[None]:
    """Call ``entered(args, kwargs)`` before and ``left(output)`` after each pass through each of the modules.

    ``left`` is called with None if the module raised. Return values are ignored, so the callbacks cannot change the
    network's computation.
    """
    with ExitStack() as stack:
        for module, entered, left in hooks:
            if entered is not None:
                handle = module.register_forward_pre_hook(_before(entered), with_kwargs=True)
                stack.callback(handle.remove)
            if left is not None:
                handle = module.register_forward_hook(_after(left), always_call=True)
                stack.callback(handle.remove)
        yield


@contextmanager
def changing_input(module: nn.Module, change: Callable[[Tensor], Tensor], call_index: int = 0) -> Iterator[None]:
    """Replace the first argument x of one call of `module` by ``change(x)``, if x is a tensor.

    Args:
        module: the module.
        change: the function of x.
        call_index: which of the module's calls inside the block, from 0.
    """
    calls = count()

    def hook(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        chosen = next(calls) == call_index
        return (change(args[0]), *args[1:]) if chosen and args and isinstance(args[0], Tensor) else args

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


def require_uncompiled(network: nn.Module) -> None:
    """Reject networks whose modules cannot have hooks.

    Raises:
        NetworkError: a module is compiled, so that its hooks would be ignored without an error.
    """
    for name, module in network.named_modules():
        if hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None:
            raise NetworkError(
                f"the module {name or '(the whole network)'!r} is compiled; "
                "pass the uncompiled network, and compile WithStatistics(network) instead"
            )
