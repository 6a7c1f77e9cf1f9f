"""Train on small training sets: experiments of the thesis's sections 3 and 4, at a size for two cores.

    python -m benchmarks training.small_sets --use mnist=npz:mnist-test.npz --use cifar10=npz:cifar10-train.npz \\
        --use cifar10-test=npz:cifar10-test.npz --threads 1
    python -m benchmarks training.small_sets fixed_weight --use cifar10=npz:cifar10-train.npz \\
        --use cifar10-test=npz:cifar10-test.npz --use cifar100=npz:cifar100-test.npz --threads 1
    python -m benchmarks training.small_sets modules  # with the first --use of CIFAR-10
    python -m benchmarks training.small_sets --condense  # with the same --use: finished instances, without training

The experiments of every result are in `training.settings`. Each instance writes its figures to WORK/small-sets and is
not trained again; an interrupted run continues. Without `--use` the images are those of torchvision under --data-root.
A data set of --use without NAME-test reserves test images of NAME. The result has the number of instances of every
figure; the pictures are in docs/images.
"""

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import joblib
import torch
from tqdm import tqdm

from benchmarks.common import arguments, rounded, write_result
from benchmarks.training.drawing import draw
from benchmarks.training.instances import Images, Instance, Setting, finished, run_instance
from benchmarks.training.intervals import correlations, mean_interval, paired_difference
from benchmarks.training.settings import INSTANCES, RESULTS, settings
from models.errors import PlumblineError
from models.progress import progress_bar

IMAGES = Path(__file__).resolve().parents[2] / "docs" / "images"
TESTED = 1000  # test images of a data set without a split


def instances(
    chosen: Sequence[Setting], images: Mapping[str, Images], seed: int, count: int | None = None
) -> list[Instance]:
    """Every instance of the settings in running order: in an experiment, all settings of one number, then the next.

    Args:
        images: by name of the data set; settings of other data sets are skipped.
        count: of instances per setting; None for the number of the experiment.
    """
    found = []
    for experiment in dict.fromkeys(setting.experiment for setting in chosen):
        for number in range(count or INSTANCES.get(experiment, 3)):
            found += [
                Instance(setting, images[setting.dataset], number, seed)
                for setting in chosen
                if setting.experiment == experiment and setting.dataset in images
            ]
    return found


def run(todo: Sequence[Instance], work: Path, jobs: int = 1, threads: int | None = None) -> int:
    """Train these instances and return the number of failures, which are printed and skipped."""
    calls = (joblib.delayed(_run)(instance, work, threads) for instance in todo)
    failed = 0
    with progress_bar(what="instances", unit="instance", total=len(todo)) as bar:
        for line in joblib.Parallel(n_jobs=jobs, return_as="generator_unordered")(calls):
            failed += line.startswith(_FAILED)
            tqdm.write(line)
            bar.update()
    return failed


_FAILED = "failed: "


def _run(instance: Instance, work: Path, threads: int | None) -> str:
    if threads:
        torch.set_num_threads(threads)
    setting = instance.setting
    name = f"{setting.experiment} {setting.dataset} {setting.images} {setting.method} #{instance.number}"
    try:
        figures = run_instance(instance, work)
    except PlumblineError as exc:  # a network that diverges does not end the run
        return f"{_FAILED}{name}: {exc}"
    return (
        f"{name}: {figures['accuracy']:.3f}, highest {max(figures['tracked'], default=0):.3f}, averages anew "
        f"{figures['accuracy_with_averages_anew']:.3f}, cost {figures['transport_cost']:.3g}, "
        f"{figures['seconds']:.0f} s"
    )


# --- condensed result


def condensed(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Rows of tables and points of figure 11, from the figures of finished instances."""
    experiments: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for figures in found:
        experiments[figures["setting"]["experiment"]].append(figures)
    return {
        "instances": len(found),
        "experiments": {
            experiment: rounded(_points(each) if experiment == "figure-11" else {"rows": _rows(each)}, 5)
            for experiment, each in experiments.items()
        },
    }


# The best epoch by test images (the thesis), the last epoch, and the last epoch with new averages.
_MEASURES: dict[str, Callable[[dict[str, Any]], float | None]] = {
    "highest": lambda figures: max(figures["tracked"], default=None),
    "last": lambda figures: figures["accuracy"],
    "averages_anew": lambda figures: figures["accuracy_with_averages_anew"],
}


def _rows(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    rows: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for figures in found:
        setting = figures["setting"]
        rows[_row(setting)].append(figures)
    made = []
    for members in rows.values():
        methods: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
        for figures in members:
            methods[figures["setting"]["method"]][figures["instance"]] = figures
        setting = members[0]["setting"]
        first = _reference(setting) or next(iter(methods))
        others = [name for name in methods if name != first] if first in methods else []
        made.append(
            {
                "dataset": setting["dataset"], "images": setting["images"], "batch": setting["recipe"]["batch_size"],
                "epochs": setting["recipe"]["epochs"], "tested": members[0]["tested"], "tracked": setting["tracked"],
                "network": setting["network"], "arguments": setting["arguments"], "recipe": setting["recipe"],
                "methods": [_method(name, each) for name, each in methods.items()],
                "differences": [
                    {"method": name, "than": first, **_difference(methods[first], methods[name])} for name in others
                ],
            }
        )  # fmt: skip
    return made


def _row(setting: Mapping[str, Any]) -> tuple[Any, ...]:
    """What the methods of a row have in common."""
    names = ("experiment", "dataset", "images", "network")
    return *(setting[name] for name in names), setting["recipe"]["batch_size"], setting["arguments"].get("blocks")


def _reference(setting: Mapping[str, Any]) -> str | None:
    """The method that the others of its row are compared with, finished or not."""
    return next((each.method for each in settings() if _row(each.to_json()) == _row(setting)), None)


def _method(name: str, instances_of: Mapping[int, dict[str, Any]]) -> dict[str, Any]:
    members = [instances_of[number] for number in sorted(instances_of)]
    measured = {
        key: mean_interval([value for value in map(measure, members) if value is not None])
        for key, measure in _MEASURES.items()
    }
    cost = mean_interval([figures["transport_cost"] for figures in members])
    setting = members[0]["setting"]
    times = [each["processor_seconds"] for each in members if each["processor_seconds"] is not None]
    made = {
        "method": name, "objective": setting["objective"], "options": setting["options"], **measured,
        "transport_cost": cost, "processor_seconds": statistics.median(times) if times else None,
    }  # fmt: skip
    for key in ("tracked", "modules"):  # test accuracy during training, and after each module
        if columns := list(zip(*(figures[key] for figures in members), strict=True)):
            intervals = [mean_interval(column) for column in columns]
            made[key] = {bound: [each[bound] for each in intervals] for bound in ("mean", "low", "high")}
    return made


def _difference(first: Mapping[int, dict[str, Any]], second: Mapping[int, dict[str, Any]]) -> dict[str, Any]:
    numbers = sorted(first.keys() & second.keys())
    made = {}
    for key, measure in _MEASURES.items():
        pairs = [
            (one, other)
            for number in numbers
            if (one := measure(first[number])) is not None and (other := measure(second[number])) is not None
        ]
        made[key] = paired_difference([one for one, _ in pairs], [other for _, other in pairs])
    return made


def _points(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    points = [
        {
            "initialization": figures["setting"]["recipe"]["initialization"],
            "gain": figures["setting"]["recipe"]["gain"],
            "instance": figures["instance"],
            "transport_cost": figures["transport_cost"],
            "accuracy": figures["accuracy"],
            "averages_anew": figures["accuracy_with_averages_anew"],
            "train_accuracy": figures["train_accuracy"][-1],
        }
        for figures in found
    ]
    costs = [point["transport_cost"] for point in points]
    setting = found[0]["setting"]
    return {
        "points": points,
        "correlation": {key: correlations(costs, [p[key] for p in points]) for key in ("accuracy", "averages_anew")},
        "log_correlation": {
            key: correlations([math.log10(cost) for cost in costs], [point[key] for point in points])
            for key in ("accuracy", "averages_anew")
        },
        "dataset": setting["dataset"], "images": setting["images"], "tested": found[0]["tested"],
        "network": setting["network"], "arguments": setting["arguments"], "recipe": setting["recipe"],
    }  # fmt: skip


# --- the command


def sources(used: Mapping[str, str], root: Path) -> dict[str, Images]:
    """Images of each data set that `--use` names, or of all without `--use`; those of cifar10-16 have 16×16 pixels."""
    found = {}
    for name in ("mnist", "cifar10", "cifar10-16", "cifar100"):
        source, _, side = name.partition("-")
        if source in used or not used:
            train, test = used.get(source, source), used.get(f"{source}-test", None if source in used else source)
            found[name] = Images(name, train, test, TESTED, root, int(side) if side else None)
    return found


def main(argv: list[str] | None = None) -> None:
    """Train the instances that are not finished, and condense the finished ones."""
    parser = arguments(__doc__)
    parser.add_argument(
        "--use", action="append", default=[], metavar="NAME=REFERENCE", help="read images from REFERENCE"
    )
    parser.add_argument(
        "result", nargs="?", default="small_sets", choices=RESULTS, help="its experiments (default: %(default)s)"
    )
    parser.add_argument("--instances", type=int, help="per setting (default: the experiment's number)")
    parser.add_argument("--work", type=Path, default=Path("runs"), help="for finished instances (default: %(default)s)")
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--jobs", type=int, default=1, help="processes (default: %(default)s)")
    parser.add_argument("--condense", action="store_true", help="train nothing")
    parser.add_argument("--images", type=Path, default=IMAGES, help="folder of the pictures (default: docs/images)")
    options = parser.parse_args(argv)
    work = options.work / "small-sets"
    used = dict(pair.split("=", 1) for pair in options.use)
    chosen = [setting for setting in settings() if setting.experiment in RESULTS[options.result]]
    every = instances(chosen, sources(used, options.data_root), options.seed, options.instances)
    failed = 0
    if not options.condense:
        todo = [each for each in every if finished(each, work) is None]
        failed = run(todo, work, options.jobs, options.threads)
    found = [figures for each in every if (figures := finished(each, work)) is not None]
    if not found:
        raise SystemExit("no instance is finished; run the command without --condense")
    payload = {"n": len(found), "planned": len(every), "seed": options.seed, **condensed(found)}
    print(write_result(options.result, payload, options.out))
    draw(payload["experiments"], options.images)
    if failed:
        raise SystemExit(f"{failed} instances failed; see the lines above")


if __name__ == "__main__":
    main()
