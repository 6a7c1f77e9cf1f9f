"""Tables of measured figures in README.md and in pages of docs, made from benchmarks/results.

`python -m benchmarks.tables.pages` rewrites what stands between the markers in those pages. A test compares them with
what this makes, so that no figure there comes from anywhere else.
"""

import json
import re
from pathlib import Path
from typing import Any

from benchmarks.tables import detection, goals, planes, search, serving, training

__all__ = ["PAGE", "PAGES", "README", "measured", "with_measured", "with_tables"]

README = Path(__file__).resolve().parents[2] / "README.md"
PAGE = README.parent / "docs" / "results.md"
PAGES = (
    PAGE,
    *(README.parent / "docs" / name for name in ("training-results.md", "module-wise.md", "circles.md", "service.md")),
)
RESULTS = Path(__file__).resolve().parents[1] / "results"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
# One line such as <!-- table: cifar10-resnet20-sound matrix detector=transport --> and, further down, its end.
_TABLE = re.compile(r"(?P<begin><!-- table: (?P<words>[^\n]*?) -->\n).*?(?P<end><!-- end -->)", re.DOTALL)


def measured() -> str:
    """The section as Markdown."""
    return "\n".join([*_by_signs(), "", *_real_images(), "", *_networks_of_others(), "", *_speed()])


def with_measured(text: str) -> str:
    """`text` with the part between the two markers replaced."""
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n{measured()}\n{END}{tail}"


def with_tables(text: str) -> str:
    """`text` with every table between markers made anew.

    A marker names a result, a function of one of the modules of `benchmarks.tables`, and its
    arguments; lists have commas. A name with a * stands for all results that match, and names in brackets for just
    those; the function then takes them by name.
    """

    def made(match: re.Match[str]) -> str:
        name, function, *pairs = match["words"].split()
        arguments = {key: _argument(key, value) for key, value in (pair.split("=", 1) for pair in pairs)}
        modules = (serving, training, planes, search, goals, detection)
        module = next((module for module in modules if function in module.__all__), detection)
        lines = getattr(module, function)(_found(name), **arguments)
        return "\n".join([match["begin"], *lines, "", match["end"]])

    return _TABLE.sub(made, text)


def _argument(key: str, value: str) -> Any:
    if key in ("detectors", "fitted_on", "tables"):
        return value.split(",")
    return float(value) if key == "nominal" else value


def _found(name: str) -> Any:
    if name.startswith("["):
        return {each: _result(each) for each in name.strip("[]").split(",")}
    return _results(name) if "*" in name else _result(name)


def _result(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return loaded


def _results(pattern: str) -> dict[str, dict[str, Any]]:
    return {path.stem: _result(path.stem) for path in sorted(RESULTS.glob(f"{pattern}.json"))}


def _by_signs() -> list[str]:
    result = _result("cifar10-resnet20-better")
    attacks = ("fgm", "pgd", "autoattack", goals.PGD2, "deepfool", "carlini_wagner", "square")
    rows = {
        "`fusion`, the default, fitted on FGM": ("fusion", ("fgm",)),
        "`fusion`, without any attacked image": ("fusion:classifier=none", ()),
        "`transport`, fitted on FGM": ("transport", ("fgm",)),
        "maximum softmax": ("max_softmax", ()),
    }
    lines = [
        "`pretrained:cifar10-resnet20`, AUROC on successful attacks (mean of five splits of 5,000 CIFAR-10 test "
        "images), and the share of images that are flagged, at 5 % false positives, under every one of "
        f"{len(result['worst_case'][0]['attacks'])} attacks that succeeds on them:",
        "",
        f"| | {' | '.join(detection.shown(attack) for attack in attacks)} | under every attack |",
        "|---" * (len(attacks) + 2) + "|",
    ]
    for name, (detector, fit) in rows.items():
        areas = [goals.area(result, detector, fit, attack) for attack in attacks]
        worst = goals.worst_share(result, detector, fit)
        lines.append(f"| {name} | {' | '.join(f'{each:.3f}' for each in areas)} | {worst:.0%} |")
    return lines


def _real_images() -> list[str]:
    results = [_result(f"cifar10-resnet20-{attack}") for attack in ("fgm", "pgd")]
    natural = results[0]["figures"]["natural"]
    lines = [
        f"`transport`, the published method, on {natural['images']:,} CIFAR-10 test images that the detector never saw "
        f"(natural accuracy {natural['accuracy']:.1%}), fitted on 8,000 others and calibrated on 1,000 at a "
        f"false-positive rate of {results[0]['figures']['false_positives']['nominal']:.0%}, ε = 0.03:",
        "",
        "| fitted on | tested on | accuracy under attack | AUROC (95 % interval) | TPR at 5 % FPR | flagged | "
        "accuracy at a vote of 0.5 |",
        "|---|---|---|---|---|---|---|",
    ]
    for result in results:
        fitted_on = ", ".join(name.upper() for name in result["recipe"]["fit"]["attack"])
        for attack in result["figures"]["attacks"]:
            found = attack["detection"]["successful"]
            low, high = found["auroc_interval"]
            lines.append(
                f"| {fitted_on} | {attack['name'].upper()}{'' if attack['seen'] else ' (unseen)'} | "
                f"{attack['accuracy']:.1%} | {found['auroc']:.4f} ({low:.4f} to {high:.4f}) | "
                f"{found['tpr_at_5_fpr']:.1%} | {found['flagged']:.1%} | {attack['paper']['accuracy']:.2%} |"
            )
    rates = [result["figures"]["false_positives"] for result in results]
    realised = " and ".join(f"{r['realised']:.1%} ({r['interval'][0]:.1%} to {r['interval'][1]:.1%})" for r in rates)
    fgm, pgd = (result["served"] for result in results)
    lines += [
        "",
        f"Realised false-positive rates: {realised}. AUROC, TPR and flagged are on successful attacks; the last column "
        "counts natural and attacked images alike, as the thesis does (97.1 % for FGM on a ResNet-110). Served as PNG "
        f"files, so rounded to 8 bits, {fgm['attacked']['flagged']:.1%} of {fgm['images']} FGM images and "
        f"{pgd['attacked']['flagged']:.1%} of {pgd['images']} PGD images were flagged by the detector fitted on them, "
        f"and {fgm['natural']['flagged']:.1%} and {pgd['natural']['flagged']:.1%} of the "
        "natural ones.",
        "",
        "The unseen rows are the limit of two statistics per block.",
    ]
    return lines


def _networks_of_others() -> list[str]:
    lines = [
        "Networks that are not ours, trained for six epochs on half of the training images, and fitted on FGM:",
        "",
        "| network | blocks found | natural accuracy | images to fit | AUROC on FGM | on PGD (unseen) | realised FPR |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in ("cifar10-torchvision-resnet18", "cifar10-user-file"):
        result = _result(name)
        figures = result["figures"]
        areas = [f"{attack['detection']['successful']['auroc']:.3f}" for attack in figures["attacks"]]
        rate = figures["false_positives"]
        lines.append(
            f"| `{result['recipe']['train']['network']}` | {result['blocks']} | {figures['natural']['accuracy']:.1%} | "
            f"{result['images']['fit']:,} | {areas[0]} | {areas[1]} | {rate['realised']:.1%} "
            f"({rate['interval'][0]:.1%} to {rate['interval'][1]:.1%}) |"
        )
    return [
        *lines,
        "",
        "torchvision's ResNet-18 is made for 224 pixels; at 32 its last blocks see four pixels or one, and little is "
        "left of a path to measure.",
    ]


def _speed() -> list[str]:
    """Ratios only, each from one run."""
    extraction, forests, serving = _result("extraction"), _result("forests"), _result("serving")
    deep = {case["memory_format"]: case["ratios"] for case in extraction["cases"] if case["network"] == "resnet56"}
    depth = {case["depth"]: case for case in _result("scaling")["depth"]}
    growth = depth[110]["ms_per_image"] / depth[20]["ms_per_image"]
    one, many = forests["rows_1_against_predict_proba"], forests["rows_256_against_predict_proba"]
    rows = [
        (
            f"forward pass with statistics ÷ plain forward pass, ResNet-56, batch {extraction['n']}",
            f"{deep['channels_last']['recorder']['ratio']:.2f} with hooks, "
            f"{deep['channels_last']['module']['ratio']:.2f} as a rewritten graph, "
            f"{deep['channels_last']['compiled']['ratio']:.2f} compiled",
        ),
        (
            "the same with a loop over images instead",
            f"{deep['channels_last']['per_image_loop']['ratio']:.2f}",
        ),
        (
            f"time per image with statistics, ResNet-110 ÷ ResNet-20 ({depth[110]['blocks']} and {depth[20]['blocks']} "
            f"blocks; statistics add {depth[110]['memory']['added_by_statistics_KiB']:.1f} KiB of memory at most)",
            f"{growth:.1f}",
        ),
        (
            f"forests ÷ scikit-learn's `predict_proba`, same answers to the last bit, {forests['trees']} trees each",
            f"{one['ratio']:.3f} for one image (2 forests), {many['ratio']:.3f} for 256 images (11 forests)",
        ),
        (
            "verdicts per second in batches of 64 ÷ one by one",
            f"{serving['bare_verdicts_per_second']['64']['times_batches_of_one']:.1f}",
        ),
        (
            f"served over HTTP ÷ bare, ResNet-20, clients on the same {serving['machine']['cores']} cores",
            f"{serving['raw_batches']['256']['ratio']:.2f} with 256 images as pixels per request, "
            f"{serving['files']['one PNG per request']['ratio']:.2f} with one PNG file per request",
        ),
    ]
    return ["| speed | ratio |", "|---|---|", *(f"| {what} | {ratio} |" for what, ratio in rows)]


if __name__ == "__main__":
    README.write_text(with_measured(README.read_text(encoding="utf-8")), encoding="utf-8")
    for page in PAGES:
        page.write_text(with_tables(page.read_text(encoding="utf-8")), encoding="utf-8")
