"""The command `plumbline`.

Errors that the user can correct are printed and end with status 2, a full disk included; an interrupt ends with 130,
and a closed output pipe with 141.
"""

import contextlib
import errno
import inspect
import io
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from importlib.metadata import version
from typing import Any

from cyclopts import App, CycloptsError, MissingArgumentError, Parameter

from models.errors import PlumblineError
from models.extras import missing_extra
from models.files import READABLE, check_output_folder
from service.cli import commands
from service.cli.recipe_file import apply_recipe

__all__ = ["app", "main"]

_STORAGE_FAULTS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})
_RESUMABLE = frozenset({"train", "attack", "fit", "evaluate", "certify", "demo"})


def _shown_default(value: Any) -> str | None:
    """Defaults that say something: neither off nor empty."""
    return str(value) if value not in (None, False, ()) else None


app = App(
    name="plumbline",
    help="Detect adversarial and out-of-distribution inputs of an image classifier.",
    version=f"plumbline {version('plumbline')}",
    config=apply_recipe,
    help_format="plaintext",
    # The last value of a repeated option wins.
    default_parameter=Parameter(show_default=_shown_default, allow_repeating=True),
)


def _help(command: Callable[..., int | None]) -> str:
    """The docstring, each paragraph on one line."""
    return "\n\n".join(" ".join(each.split()) for each in inspect.cleandoc(command.__doc__ or "").split("\n\n"))


app.register_install_completion_command()
app.command(commands.list_, name="list", help=_help(commands.list_))
for _command in (
    commands.inspect, commands.check, commands.train, commands.attack, commands.fit, commands.calibrate,
    commands.evaluate, commands.score, commands.serve, commands.certify, commands.demo,
):  # fmt: skip
    app.command(_command, help=_help(_command))
_geometry = App(name="geometry", help=_help(commands.geometry))
_geometry.default(commands.geometry)
for _experiment in (commands.circles, commands.decodings):
    _geometry.command(_experiment, help=_help(_experiment))
app.command(_geometry)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: command line without the program's name; that of the process by default.

    Returns:
        The exit status.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    name = words[0] if words else "--help"
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a character that the terminal's encoding lacks is escaped
            stream.reconfigure(errors=READABLE)
    try:
        status = _run(words)
        if sys.stdout is not None:
            sys.stdout.flush()
        return status
    except CycloptsError as exc:
        return _complain(name, f"{_fault(exc)} See plumbline {name} --help.")
    except PlumblineError as exc:
        return _complain(name, str(exc))
    except ModuleNotFoundError as exc:
        if (missing := missing_extra(exc)) is None:
            raise
        return _complain(name, str(missing))
    except KeyboardInterrupt:
        after = "resumes" if name in _RESUMABLE else "starts again"
        return _complain(name, f"interrupted; the same command {after}", status=130)
    except BrokenPipeError:  # the output pipe is closed
        _drop_output()
        return 141
    except (MemoryError, RuntimeError) as exc:
        from models.batching import is_out_of_memory  # slow to import

        if not is_out_of_memory(exc):
            raise
        return _complain(name, "memory ran out; give smaller images (--resize, --crop), or use fewer processes")
    except OSError as exc:
        if exc.errno not in _STORAGE_FAULTS:
            raise
        _drop_output()
        place = exc.filename or "standard output or a temporary file"
        return _complain(name, f"cannot write to {place}: {exc.strerror}; free space there and run it again")


def _run(words: list[str]) -> int:
    """Run the command of these words, and return its status; without any, print the help."""
    if not words:
        app.help_print([])
        return 2
    command, bound, _ = app.parse_args(words, exit_on_error=False, print_error=False)
    for request in bound.arguments.values():
        _check(request)
    return command(*bound.args, **bound.kwargs) or 0


def _complain(name: str, message: str, *, status: int = 2) -> int:
    """The exit status, after a message on standard error."""
    with contextlib.suppress(OSError):  # standard error may be closed or full, too
        print(f"plumbline {name}: {message}", file=sys.stderr, flush=True)
    return status


def _drop_output() -> None:
    """Discard buffered output that cannot be written, so that the last flush of the interpreter does not fail."""
    with contextlib.suppress(OSError, ValueError):  # a test's output has no descriptor
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fault(error: CycloptsError) -> str:
    """The message with a full stop at its end. It names a missing option, and the recipe file of a refused value."""
    argument = error.argument
    if isinstance(error, MissingArgumentError) and argument is not None and argument.required and not argument.tokens:
        # The options of a group have a parent without a name.
        absent = next((child for child in argument.children if child.required and not child.tokens), argument)
        positional = absent.field_info.is_positional
        return f"{absent.name.removeprefix('--').upper() if positional else absent.name} is required."
    message = str(error).rstrip(".")
    # cyclopts leaves out the recipe file that has the value if a converter of ours refuses it.
    source = argument.tokens[-1].source if argument is not None and argument.tokens else "cli"
    return f"{message}." if source == "cli" or source in message else f"{source}: {message}."


def _check(request: Any, *, elsewhere: bool = False) -> None:
    """Validate cheap options before long work: the device works, the output folder can be written.

    Args:
        request: with its options.
        elsewhere: whether the device is one of other machines.

    Raises:
        InputError: one of them cannot be used.
    """
    if not is_dataclass(request):
        return
    elsewhere = elsewhere or getattr(request, "runner", None) == "ray"
    for field in fields(request):
        value = getattr(request, field.name)
        if field.name == "device" and value and not elsewhere:
            from models.devices import check_device

            check_device(value)
        elif field.name == "out":
            from models.memory import keep_freed_memory

            check_output_folder(value)
            keep_freed_memory()
        else:
            _check(value, elsewhere=elsewhere)


if __name__ == "__main__":
    sys.exit(main())
