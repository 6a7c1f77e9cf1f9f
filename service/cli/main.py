"""The command `plumbline`.

Words are parsed here; the work is in `service/jobs/`, imported only when its command is called, so that `--help` and
`list` need no torch. Errors that the user can mend are printed and end with status 2; an interrupt ends with 130.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

from models.errors import InputError, PlumblineError
from models.extras import missing_extra
from models.files import check_output_folder
from models.registry import ATTACKS, DATASETS, DETECTORS, NETWORKS, OBJECTIVES
from service.cli import geometry_options
from service.cli.recipe_file import with_recipe

__all__ = ["main"]

KINDS = {
    "networks": NETWORKS,
    "datasets": DATASETS,
    "attacks": ATTACKS,
    "detectors": DETECTORS,
    "objectives": OBJECTIVES,
}
NETWORK_HELP = (
    "RUN, pretrained:NAME, torchvision:NAME[:WEIGHTS], PATH.py:CALLABLE[:WEIGHTS], or a name from `list networks`"
)
DATASET_HELP = "a name from `list datasets`, npz:FILE or images:FOLDER"
# `plumbline geometry NAME`, wherever options stand, is one of these; a network's folder that is called so is ./NAME.
GEOMETRY_STUDIES = {
    "circles": "the two-dimensional study: what training makes of two circles of points",
    "decodings": "an autoencoder's embeddings, decoded after every block",
}
GEOMETRY_FLAGS = ("--download", "--help", "-h")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["geometry"]:
        words = _with_study(words)
    parser = _parser(words)
    try:
        options = parser.parse_args(with_recipe(words, parser))
    except InputError as exc:
        print(f"plumbline {words[0]}: {exc}", file=sys.stderr)
        return 2
    try:
        if getattr(options, "device", None):
            import_module("models.devices").check_device(options.device)
        if getattr(options, "out", None):
            check_output_folder(options.out)
            import_module("models.memory").keep_freed_memory()  # whatever writes results runs a network for long
        options.run(options)
    except PlumblineError as exc:
        print(f"plumbline {options.command}: {exc}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as exc:
        if (missing := missing_extra(exc)) is None:
            raise
        print(f"plumbline {options.command}: {missing}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        after = "goes on where it stopped" if getattr(options, "resumes", True) else "starts anew"
        print(f"plumbline {options.command}: interrupted; the same command {after}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Whoever read our output has gone; the interpreter's last flush must not fail over it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return 0


def _parser(words: Sequence[str] | None = None) -> argparse.ArgumentParser:
    """The parser of all commands, or of these words, without the options of commands that need torch to state them."""
    parser = argparse.ArgumentParser(
        prog="plumbline",
        description="Tells what an image classifier says of an image, and whether that can be trusted.",
    )
    parser.add_argument("--version", action="version", version=f"plumbline {version('plumbline')}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_list(commands)
    _add_inspect(commands)
    _add_train(commands)
    _add_fit(commands)
    _add_evaluate(commands)
    _add_geometry(commands, words)
    _add_score(commands)
    _add_serve(commands)
    _add_demo(commands)
    return parser


Commands = argparse._SubParsersAction  # the only name argparse has for it


def _job(name: str) -> Callable[[argparse.Namespace], None]:
    def run(options: argparse.Namespace) -> None:
        import_module(f"service.jobs.{name}").run(options)

    return run


def _evaluate(options: argparse.Namespace) -> None:
    import_module("service.cli.evaluation_options").run(options)


def _add_list(commands: "Commands[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("list", help="the networks, data sets, attacks, detectors and objectives there are")
    parser.add_argument("kind", nargs="?", choices=list(KINDS), help="only this kind")
    parser.add_argument("--json", action="store_true", help="print JSON: {kind: {name: summary}}")
    parser.set_defaults(run=_list)


def _list(options: argparse.Namespace) -> None:
    kinds = [options.kind] if options.kind else list(KINDS)
    found = {kind: KINDS[kind].summaries() for kind in kinds}
    if options.json:
        print(json.dumps(found, indent=2))
        return
    for kind, summaries in found.items():
        print(f"{kind}:")
        for name, summary in summaries.items():
            print(f"  {name:<18} {summary}")


def _add_inspect(commands: "Commands[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "inspect", help="the residual branches that are found in a network, and what is left out"
    )
    parser.add_argument("network", metavar="NETWORK", help=NETWORK_HELP)
    parser.add_argument("--image-size", type=_size, metavar="H[xW]", help="pixels (default: the network's own)")
    parser.add_argument("--json", action="store_true", help="print JSON: branches and left_out")
    _seed(parser)
    parser.set_defaults(run=_job("inspect"))


def _add_train(commands: "Commands[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("train", help="train a network; an interrupted run goes on with the same command")
    parser.add_argument(
        "--recipe", type=Path, metavar="FILE", help="TOML: its table [train] gives options that are not given here"
    )
    parser.add_argument(
        "--network",
        required=True,
        help="a name from `list networks`, with options as NAME:OPTION=VALUE, torchvision:NAME or PATH.py:CALLABLE",
    )
    _dataset(parser, download=argparse.BooleanOptionalAction)
    parser.add_argument(
        "--test-dataset", metavar="D", help="for npz:FILE, whose file is one split (default: --dataset)"
    )
    parser.add_argument(
        "--objective",
        default="cross_entropy",
        metavar="O",
        help="a name from `list objectives`, with options: NAME:OPTION=VALUE (default: %(default)s)",
    )
    parser.add_argument("--epochs", type=int, default=30, metavar="E")
    parser.add_argument("--batch-size", type=int, default=128, metavar="B")
    parser.add_argument("--learning-rate", type=float, default=0.1, metavar="R")
    parser.add_argument("--schedule", choices=["one_cycle", "step", "cosine", "constant"], default="one_cycle")
    parser.add_argument(
        "--milestones", type=_epochs, default=(), metavar="E,E", help="of --schedule step (default: 50, 75 and 83 %%)"
    )
    parser.add_argument("--decay", type=float, default=0.1, metavar="F", help="of --schedule step, at each milestone")
    parser.add_argument("--optimizer", choices=["sgd", "adamw"], default="sgd")
    parser.add_argument(
        "--momentum", type=float, default=0.9, metavar="M", help="of sgd, Nesterov's; or adamw's first moment's"
    )
    parser.add_argument("--nesterov", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--weight-decay", type=float, default=5e-4, metavar="W")
    parser.add_argument("--label-smoothing", type=float, default=0.0, metavar="S")
    parser.add_argument("--gradient-clipping", type=float, metavar="G", help="largest gradient norm")
    parser.add_argument(
        "--initialization",
        choices=["default", "kaiming", "orthogonal", "normal"],
        default="default",
        help="of convolutions and linear layers (default: the network's own)",
    )
    parser.add_argument("--gain", type=float, default=1.0, metavar="G", help="of --initialization")
    parser.add_argument("--crop-padding", type=int, default=4, metavar="P", help="of random crops, in pixels")
    parser.add_argument("--flip", action=argparse.BooleanOptionalAction, help="random flips (default: not on digits)")
    parser.add_argument("--precision", choices=["auto", "float32", "bfloat16"], default="auto")
    parser.add_argument("--half", action=argparse.BooleanOptionalAction, default=False, help="half-precision weights")
    _normalisation(parser)
    _common(parser)
    parser.add_argument("--out", required=True, type=Path, metavar="RUN")
    parser.set_defaults(run=_job("train"))


def _add_fit(commands: "Commands[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("fit", help="fit a detector to a network and write an artifact")
    parser.add_argument("--network", required=True, metavar="NETWORK", help=NETWORK_HELP)
    _dataset(parser)
    parser.add_argument(
        "--detector",
        default="fusion",
        metavar="D",
        help="a name from `list detectors`; options follow colons: views:view=flip (default: %(default)s)",
    )
    parser.add_argument(
        "--attack", nargs="+", action="extend", metavar="A", help="to fit on, as in evaluate --attacks (default: fgm)"
    )
    parser.add_argument(
        "--epsilon", default="0.03", metavar="E", help="budget in units of [0, 1], such as 0.03 or 8/255"
    )
    parser.add_argument("--fpr", type=float, default=0.05, metavar="R", help="false-positive rate to calibrate to")
    parser.add_argument("--split", default="0.8,0.1,0.1", metavar="F,C,T", help="shares to fit, calibrate and test on")
    parser.add_argument("--calibrate-on", metavar="D", help="natural images to calibrate on instead")
    parser.add_argument(
        "--reference",
        metavar="D",
        help="natural images for detectors that compare with some (default: a quarter of those to fit on)",
    )
    parser.add_argument(
        "--classifier",
        choices=["random_forest", "gradient_boosting", "logistic_regression", "svm", "none"],
        help="none: the detector's own score, without attacks (default: the detector's own)",
    )
    parser.add_argument("--of", choices=["residues", "embeddings"], default="residues", help="whose norms and cosines")
    parser.add_argument(
        "--directions", type=int, default=0, metavar="K", help="cosines to K further orthogonal vectors"
    )
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes that attack")
    parser.add_argument("--cache", type=Path, default=Path("runs/attacks"), metavar="DIR", help="of attacked images")
    parser.add_argument("--sign-key", type=Path, metavar="FILE", help="sign the artifact with this secret")
    _normalisation(parser)
    _common(parser)
    parser.add_argument("--out", required=True, type=Path, metavar="ARTIFACT")
    parser.set_defaults(run=_job("fit"))


def _add_evaluate(commands: "Commands[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "evaluate",
        help="how detectors, or an artifact, fare on natural and attacked images and on outliers",
        usage="plumbline evaluate (--artifact A | --network N) [options] --out REPORT",
        description="With --artifact alone, it is judged on all images that it has not seen. With --network, or with "
        "--detectors or --fit-on, detectors are fitted and judged run by run. See docs/evaluation.md. An interrupted "
        "evaluation goes on with the same command.",
    )
    what = parser.add_argument_group("what is evaluated")
    _artifact(what, required=False, network_help=f"to fit detectors on: {NETWORK_HELP}")
    what.add_argument("--detectors", metavar="A,B", help="such as transport,mahalanobis:magnitude=0.0014")
    _dataset(parser.add_argument_group("natural images"))
    how = parser.add_argument_group("protocol")
    how.add_argument("--protocol", choices=["sound", "paper"], default="sound", help="paper: as in the thesis, 5.4.2")
    how.add_argument("--runs", type=int, metavar="R", help="splits (default: 5)")
    how.add_argument("--split", metavar="F,C,T", help="shares to fit, calibrate and test on (paper: F,T)")
    how.add_argument("--fpr", type=float, metavar="R", help="of thresholds (default: the artifact's, or 0.05)")
    how.add_argument("--noisy", action="store_true", help="noisy images count as natural; paper only")
    attacks = parser.add_argument_group("attacks")
    attacks.add_argument(
        "--test-on", "--attacks", dest="test_on", metavar="A,B",
        help="with options after colons: pgd:steps=40:epsilon=2/255 (default: --fit-on, or fgm)",
    )  # fmt: skip
    attacks.add_argument("--fit-on", metavar="A,B", help="one fit each; A+B: on both; all: on all (default: fgm)")
    attacks.add_argument("--epsilon", default="0.03", metavar="E", help="budget, such as 0.03 or 8/255")
    attacks.add_argument("--budgets", metavar="E,E", help="further budgets, such as 1/255,2/255")
    attacks.add_argument("--attack-limit", nargs="+", action="extend", default=[], metavar="A=N", help="on N originals")
    attacks.add_argument("--eight-bit", action="store_true", help="round attacked images to 1/255")
    attacks.add_argument("--adaptive", metavar="A,B", help="adaptive attacks, such as black_box,orthogonal")
    attacks.add_argument("--adaptive-images", type=int, metavar="N", help="default: 200")
    attacks.add_argument(
        "--adaptive-queries", type=int, metavar="N",
        help="most queries per image in each run of HopSkipJump (default: the thesis's 50 iterations, about 25,000)",
    )  # fmt: skip
    attacks.add_argument(
        "--adaptive-steps", type=int, metavar="N", help="of selective and orthogonal descent (default: 100)"
    )
    others = parser.add_argument_group("other data sets")
    others.add_argument("--ood", nargs="+", action="extend", default=[], metavar="D", help="outliers to test on")
    others.add_argument("--fit-ood", nargs="+", action="extend", default=[], metavar="D", help="outliers to fit on too")
    others.add_argument("--reference", metavar="D", help="to compare with, such as what the network learnt from")
    others.add_argument("--reference-limit", type=int, metavar="N", help="of them at most (default: 10000)")
    report = parser.add_argument_group("report")
    report.add_argument("--out", required=True, type=Path, metavar="REPORT", help="folder of report.json, .csv, .html")
    report.add_argument("--csv", action="store_true", help="images.csv: a row per image and judgement")
    report.add_argument("--resamples", type=int, default=1000, metavar="N", help="of bootstrap intervals; 0: none")
    report.add_argument("--beside-paper", nargs="?", const="", metavar="FILE", help="published figures beside ours")
    report.add_argument("--published", metavar="NAME", help="network or data set whose figures those are")
    machine = parser.add_argument_group("machine")
    machine.add_argument("--workers", type=int, default=1, metavar="N", help="processes")
    machine.add_argument("--cache", type=Path, default=Path("runs/attacks"), metavar="DIR", help="of all that is made")
    _normalisation(what)
    _common(machine)
    parser.set_defaults(run=_evaluate)


def _add_geometry(commands: "Commands[argparse.ArgumentParser]", words: Sequence[str] | None) -> None:
    parser = commands.add_parser(
        "geometry",
        help="how straight and how short the paths through networks are, side by side",
        description="Transport cost, line shape, optimal transport, noise and gradients along the residual blocks; see "
        "docs/geometry.md. `geometry circles` and `geometry decodings` are studies of their own; a folder of such a "
        "name is ./circles.",
    )
    parser.add_argument("network", nargs="+", metavar="NETWORK", help=f"several stand side by side; {NETWORK_HELP}")
    _dataset(parser)
    parser.add_argument(
        "--transport-images", type=int, default=500, metavar="N",
        help="of the images, for assignments and important units (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--epsilon", default="0.01,0.03,0.1", metavar="E,E", help="budgets of FGM, such as 2/255,8/255; none: no attack"
    )
    parser.add_argument(
        "--noise", default="0.03,0.1", metavar="S,S", help="standard deviations of noise; none: no noise"
    )
    _normalisation(parser)
    _common(parser)
    parser.add_argument("--out", required=True, type=Path, metavar="REPORT", help="folder of report.json and .html")
    parser.set_defaults(run=geometry_options.run_geometry, resumes=False)
    for name, summary in GEOMETRY_STUDIES.items():
        command = f"geometry {name}"
        parser = commands.add_parser(command, help=summary)
        if words is None or words[:1] == [command]:
            getattr(geometry_options, f"add_{name}")(parser)
        parser.set_defaults(run=getattr(geometry_options, f"run_{name}"))


def _with_study(words: Sequence[str]) -> list[str]:
    """The words, beginning with "geometry NAME" where the first that is no option or its value names a study.

    >>> _with_study(["geometry", "--out", "circles", "circles", "--epochs", "3"])
    ['geometry circles', '--out', 'circles', '--epochs', '3']
    """
    place = 1
    while place < len(words) and words[place].startswith("-") and words[place] != "--":
        # Every other option of `geometry` and its studies has one value.
        place += 1 if "=" in words[place] or words[place] in GEOMETRY_FLAGS else 2
    if place < len(words) and words[place] in GEOMETRY_STUDIES:
        return [f"geometry {words[place]}", *words[1:place], *words[place + 1 :]]
    return list(words)


def _add_score(commands: "Commands[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("score", help="a JSON line per image file: class, score, p-value, flag")
    _artifact(parser)
    parser.add_argument("files", nargs="+", metavar="FILE", help="JPEG, PNG or WebP")
    parser.add_argument("--path", action="store_true", help="add the image's path beside the natural band")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    _seed(parser)
    parser.set_defaults(run=_job("score"))


def _add_serve(commands: "Commands[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("serve", help="answer over HTTP")
    parser.add_argument(
        "--artifact", required=True, action="append", metavar="[NAME=]A",
        help="a folder that `fit` wrote; repeated, several models, each of which its folder names unless NAME does",
    )  # fmt: skip
    parser.add_argument(
        "--network", action="append", metavar="[NAME=]PATH.py:CALLABLE",
        help="only where the network came from a user's file",
    )  # fmt: skip
    _verify_key(parser)
    parser.add_argument("--host", metavar="H", help="address to bind (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, metavar="P", help="port to bind (default: 8000)")
    parser.add_argument("--admin-host", metavar="H", help="address of figures and status (default: 127.0.0.1)")
    parser.add_argument("--admin-port", type=int, metavar="P", help="their port (default: 8001)")
    parser.add_argument("--keys", type=Path, metavar="FILE", help="API keys, one a line; needed beyond loopback")
    parser.add_argument("--admin-keys", type=Path, metavar="FILE", help="the same for figures and status")
    parser.add_argument("--insecure", action="store_true", default=None, help="serve beyond loopback without keys")
    parser.add_argument("--examples", type=Path, metavar="DIR", help="images that the web page offers")
    parser.add_argument("--device", metavar="D", help="cpu or cuda (default: cpu)")
    _seed(parser)
    parser.set_defaults(run=_serve)


def _serve(options: argparse.Namespace) -> None:
    # From here on, and not only once torch is there, a reload does not end the process.
    with import_module("service.http.connection.reload_signal").caught_reload_signals() as reload_signal:
        import_module("service.jobs.serve").run(options, reload_signal)


def _add_demo(commands: "Commands[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("demo", help="train, attack, fit, evaluate and draw, on scikit-learn's digits")
    parser.add_argument("--serve", action="store_true", help="serve the artifact afterwards")
    parser.add_argument("--port", type=int, default=8000, metavar="P")
    parser.add_argument("--out", type=Path, default=Path("demo"), metavar="DIR")
    _seed(parser)
    parser.set_defaults(run=_job("demo"))


def _artifact(
    parser: "argparse._ActionsContainer",
    *,
    required: bool = True,
    network_help: str = "only where the network came from a user's file",
) -> None:
    parser.add_argument("--artifact", required=required, type=Path, metavar="A", help="a folder that `fit` wrote")
    metavar = "PATH.py:CALLABLE" if required else "N"
    parser.add_argument("--network", metavar=metavar, help=network_help)
    _verify_key(parser)


def _verify_key(parser: "argparse._ActionsContainer") -> None:
    parser.add_argument(
        "--verify-key", type=Path, metavar="FILE", help="refuse an artifact not signed with this secret"
    )


def _dataset(parser: "argparse._ActionsContainer", *, download: str | type[argparse.Action] = "store_true") -> None:
    parser.add_argument("--dataset", default="digits", metavar="D", help=DATASET_HELP)
    parser.add_argument("--data-root", type=Path, default=Path("data"), metavar="DIR", help="of downloaded data sets")
    parser.add_argument("--download", action=download, default=False, help="fetch a missing data set")
    parser.add_argument("--resize", type=int, metavar="PX", help="shorter side")
    parser.add_argument("--crop", type=int, metavar="PX", help="central square")


def _normalisation(parser: "argparse._ActionsContainer") -> None:
    for name in ("mean", "std"):
        parser.add_argument(f"--{name}", type=_three_numbers, metavar="R,G,B", help="per channel, for pixels in [0, 1]")


def _common(parser: "argparse._ActionsContainer") -> None:
    parser.add_argument("--limit", type=int, metavar="N", help="a random N of the images")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    _seed(parser)


def _seed(parser: "argparse._ActionsContainer") -> None:
    parser.add_argument("--seed", type=_seed_number, default=0, metavar="S")


def _seed_number(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) >= 2**31:
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 to {2**31 - 1}, got {text!r}")
    return int(text)


def _three_numbers(text: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError as exc:
        raise argparse.ArgumentTypeError(f"expected numbers with commas, got {text!r}") from exc
    if len(numbers) not in (1, 3):
        raise argparse.ArgumentTypeError(f"expected one number or three, got {text!r}")
    return numbers * 3 if len(numbers) == 1 else numbers


def _epochs(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as exc:
        raise argparse.ArgumentTypeError(f"expected whole numbers with commas, got {text!r}") from exc


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    try:
        size = int(height), int(width or height)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(f"expected H or HxW in pixels, got {text!r}") from exc
    if min(size) < 1:
        raise InputError(f"expected a positive size, got {text!r}")
    return size


if __name__ == "__main__":
    sys.exit(main())
