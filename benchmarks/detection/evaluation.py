"""Runs a study that a file of `benchmarks/evaluations` describes, by `plumbline evaluate`, and keeps its figures.

    python -m benchmarks.detection.evaluation benchmarks/evaluations/cifar10-resnet20-sound.toml --use cifar10=npz:FILE

The [evaluate] table holds the command's words. With --train the network of the [train] table is trained first, by
`plumbline train`, and takes the place of the word "trained". --use NAME=REFERENCE reads another source under a data
set's name; --limit, --runs, --epochs and --set, which replaces any word of the table (--set fit-on=fgm,apgd:steps=2),
cut a study down to see whether it runs, and the result says so under "study". The whole report goes to
WORK/<name>-report, its figures without those of single runs to benchmarks/results/<name>.json.
"""

import argparse
import json
import tomllib
from pathlib import Path
from typing import Any

from benchmarks.common import write_result
from service.cli.main import main as plumbline

# Words whose values are separate arguments of the command; the values of all others are joined by commas.
_REPEATED = {"ood", "fit-ood", "attack-limit"}


def main() -> None:
    """Run the study that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument(
        "--use", action="append", default=[], metavar="NAME=REFERENCE", help="read a data set elsewhere"
    )
    parser.add_argument("--train", action="store_true", help="train the network first")
    parser.add_argument("--epochs", type=int, help="instead of the study's own, with --train")
    parser.add_argument("--limit", type=int, help="instead of the study's own number of images")
    parser.add_argument("--runs", type=int, help="instead of the study's own")
    parser.add_argument("--set", action="append", default=[], metavar="WORD=VALUE", help="instead of the study's own")
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--work", type=Path, default=Path("runs"), help="for attacked images, networks and reports")
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write the JSON here instead of to benchmarks/results")
    options = parser.parse_args()
    name = options.study.stem
    study = tomllib.loads(options.study.read_text(encoding="utf-8"))
    used = dict(pair.split("=", 1) for pair in options.use)
    words = study["evaluate"]
    words |= {name: value for name, value in (("limit", options.limit), ("runs", options.runs)) if value is not None}
    words |= {word: value.split(",") for word, value in (pair.split("=", 1) for pair in options.set)}
    trained = options.work / f"{name}-network"
    if options.train:
        train = {**study["train"], **({"epochs": options.epochs} if options.epochs else {})}
        _run("train", train, used, ["--out", str(trained)], options)
    report = options.work / f"{name}-report"
    shared = ["--cache", str(options.work / "attacks"), "--workers", str(options.workers), "--out", str(report)]
    network = {"network": str(trained)} if words["network"] == "trained" else {}
    _run("evaluate", words | network, used, shared, options)
    found = json.loads((report / "report.json").read_text(encoding="utf-8"))
    payload = {"n": found["natural"]["images"], "seed": options.seed, "study": study, **condensed(found)}
    print(f"written to {write_result(name, payload, options.out)}")


def condensed(report: dict[str, Any]) -> dict[str, Any]:
    """What tables are made of: means and deviations over runs, the first run's intervals, counts of compatible rates.

    Images that were attacked without success are left out; the whole report has them, and the other runs.
    """
    kept = {key: value for key, value in report.items() if key not in ("results", "worst_case")}
    kept["results"] = [_condensed_result(entry) for entry in report["results"]]
    kept["worst_case"] = [
        {**{key: value for key, value in entry.items() if key != "runs"}, "first_run": entry["runs"][0]}
        for entry in report["worst_case"]
    ]
    kept["false_positives"] = [
        {
            **{key: value for key, value in entry.items() if key != "runs"},
            "first_run": entry["runs"][0],
            "runs": len(entry["runs"]),
            "compatible_runs": sum(run["compatible"] for run in entry["runs"]),
        }
        for entry in report["false_positives"]
    ]
    short: dict[str, Any] = _shortened(kept)
    return short


def _condensed_result(entry: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in entry.items() if key != "runs"}
    for part in ("mean", "std"):
        kept[part] = {name: value for name, value in entry[part].items() if name != "failed"}
    group = "all" if entry["kind"] == "outlier" else "successful"  # that tables lead with
    first = entry["runs"][0][group]
    kept["first_run"] = first and {name: value for name, value in first.items() if "interval" in name}
    return kept


def _shortened(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _shortened(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_shortened(each) for each in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _run(command: str, words: dict[str, Any], used: dict[str, str], more: list[str], options: Any) -> None:
    arguments = [command, *more, "--data-root", str(options.data_root), "--seed", str(options.seed)]
    for word, value in words.items():
        if value is True:
            arguments.append(f"--{word}")
        elif word in _REPEATED:
            arguments += [f"--{word}", *(_with(used, str(each)) for each in value)]
        else:
            values = value if isinstance(value, list) else [value]
            arguments += [f"--{word}", ",".join(_with(used, str(each)) for each in values)]
    if plumbline(arguments):
        raise SystemExit(f"plumbline {' '.join(arguments)} failed")


def _with(used: dict[str, str], text: str) -> str:
    """The reference to read instead, also where the data set's name is the argument of another: random_crops:NAME."""
    head, separator, rest = text.rpartition(":")
    return f"{head}{separator}{used.get(rest, rest)}" if separator and rest in used else used.get(text, text)


if __name__ == "__main__":
    main()
