"""Run an evaluation that a file of benchmarks/evaluations describes, and keep the figures that the pages print.

    python -m benchmarks detection.evaluation benchmarks/evaluations/cifar10-resnet20-sound.toml --use cifar10=npz:FILE

The [evaluate] table holds options of `plumbline evaluate`. With --train the network of the [train] table is trained
first and takes the place of the word "trained". --limit, --runs, --epochs and --set reduce an evaluation to a trial;
the result records the reduced options. The whole report goes to WORK/<name>-report, the condensed figures to
benchmarks/results/<name>.json. --condense repeats the last step for a report that exists.
"""

import argparse
import json
import tomllib
from pathlib import Path
from typing import Any

from benchmarks.common import write_result
from benchmarks.tables.condense import condensed
from service.cli.main import main as plumbline

# Options whose values are separate arguments of the command; the values of all others are joined by commas.
_REPEATED = {"ood", "fit-ood", "attack-limit"}
_ORIGIN = ("date", "machine", "python", "versions", "revision")


def main() -> None:
    """Run the evaluation that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("evaluation", type=Path)
    parser.add_argument(
        "--use", action="append", default=[], metavar="NAME=REFERENCE", help="read the data set NAME from REFERENCE"
    )
    parser.add_argument("--train", action="store_true", help="train the network first")
    parser.add_argument("--condense", action="store_true", help="only condense the report in WORK")
    parser.add_argument("--epochs", type=int, help="of the training; replaces the file's number")
    parser.add_argument("--limit", type=int, help="number of images; replaces the file's number")
    parser.add_argument("--runs", type=int, help="number of runs; replaces the file's number")
    parser.add_argument(
        "--set", action="append", default=[], metavar="OPTION=VALUE", help="replace any option of the [evaluate] table"
    )
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--work", type=Path, default=Path("runs"), help="for attacked images, networks and reports")
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write the JSON here instead of to benchmarks/results")
    options = parser.parse_args()
    name = options.evaluation.stem
    evaluation = tomllib.loads(options.evaluation.read_text(encoding="utf-8"))
    words = _reduced(evaluation["evaluate"], options)
    report = options.work / f"{name}-report"
    if not options.condense:
        _train_and_evaluate(evaluation.get("train", {}), words, report, options)
    figures = json.loads((report / "report.json").read_text(encoding="utf-8"))
    payload = {
        **{key: figures["facts"][key] for key in _ORIGIN if key in figures["facts"]},
        "n": figures["natural"]["images"], "seed": options.seed, "evaluation": words, **condensed(figures),
    }  # fmt: skip
    print(f"written to {write_result(name, payload, options.out)}")


def _reduced(words: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """The options of `plumbline evaluate`, with those that the command line replaces."""
    given = {"limit": options.limit, "runs": options.runs}
    pairs = (pair.split("=", 1) for pair in options.set)
    replaced = {word: value.split(",") if "," in value else value for word, value in pairs}
    return words | {word: value for word, value in given.items() if value is not None} | replaced


def _train_and_evaluate(train: dict[str, Any], words: dict[str, Any], report: Path, options: Any) -> None:
    trained = report.with_name(report.name.replace("-report", "-network"))
    if options.train:
        _run("train", train | ({"epochs": options.epochs} if options.epochs else {}), ["--out", str(trained)], options)
    more = ["--cache", str(options.work / "attacks"), "--workers", str(options.workers), "--out", str(report)]
    network = {"network": str(trained)} if words["network"] == "trained" else {}
    _run("evaluate", words | network, more, options)


def _run(command: str, words: dict[str, Any], more: list[str], options: Any) -> None:
    sources = dict(pair.split("=", 1) for pair in options.use)
    arguments = [command, *more, "--data-root", str(options.data_root), "--seed", str(options.seed)]
    for word, value in words.items():
        if value is True:
            arguments.append(f"--{word}")
            continue
        values = [_source(sources, str(each)) for each in (value if isinstance(value, list) else [value])]
        arguments += [f"--{word}", *(values if word in _REPEATED else [",".join(values)])]
    if plumbline(arguments):
        raise SystemExit(f"plumbline {' '.join(arguments)} failed")


def _source(sources: dict[str, str], text: str) -> str:
    """The reference to read instead, also where the data set's name is the argument of another: random_crops:NAME."""
    head, separator, rest = text.rpartition(":")
    return f"{head}{separator}{sources.get(rest, rest)}" if separator and rest in sources else sources.get(text, text)


if __name__ == "__main__":
    main()
