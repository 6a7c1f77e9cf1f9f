"""Tables of one fitted artifact per recipe: networks of several sources, and images served as PNG files."""

from collections.abc import Mapping

from benchmarks.tables.cells import Entry, Result, shown

__all__ = ["fitted", "networks", "served"]


def fitted(results: Mapping[str, Result]) -> list[str]:
    """A row per recipe and tested attack, at the calibrated threshold."""
    lines = [
        "| fitted on | tested on | accuracy under attack | AUROC (95 % interval) | TPR at 5 % FPR | flagged | "
        "accuracy at a vote of 0.5 |",
        "|---|---|---|---|---|---|---|",
    ]
    for result in results.values():
        fitted_on = " + ".join(map(shown, result["recipe"]["fit"]["attack"]))
        for attack in result["attacks"]:
            low, high = attack["auroc_interval"]
            lines.append(
                f"| {fitted_on} | {shown(attack['name'])}{'' if attack['seen'] else ' (unseen)'} | "
                f"{attack['accuracy']:.1%} | {attack['auroc']:.4f} ({low:.4f} to {high:.4f}) | "
                f"{attack['tpr_at_5_fpr']:.1%} | {attack['flagged']:.1%} | {attack['paper_accuracy']:.2%} |"
            )
    return lines


def networks(results: Mapping[str, Result]) -> list[str]:
    """A row per network: the residual branches found in it, and the AUROC of a seen and an unseen attack."""
    lines = [
        "| network | blocks found | natural accuracy | images to fit | AUROC on FGM | on PGD (unseen) | realised FPR |",
        "|---|---|---|---|---|---|---|",
    ]
    for result in results.values():
        areas = " | ".join(f"{attack['auroc']:.3f}" for attack in result["attacks"])
        lines.append(
            f"| `{result['recipe']['train']['network']}` | {result['blocks']} | {result['natural']['accuracy']:.1%} | "
            f"{result['images']['fit']:,} | {areas} | {_rate(result['false_positives'])} |"
        )
    return lines


def served(results: Mapping[str, Result]) -> list[str]:
    """A row per recipe: images sent to the server as PNG files, and the share that is flagged."""
    lines = [
        "| fitted on and attacked with | realised FPR (95 % interval) | PNG files of each kind | attacked flagged | "
        "natural flagged |",
        "|---|---|---|---|---|",
    ]
    for result in results.values():
        answers = result["served"]
        lines.append(
            f"| {shown(result['recipe']['serve']['attack'])} | {_rate(result['false_positives'])} | "
            f"{answers['images']} | {answers['attacked']['flagged']:.1%} | {answers['natural']['flagged']:.1%} |"
        )
    return lines


def _rate(rate: Entry) -> str:
    low, high = rate["interval"]
    return f"{rate['realised']:.1%} ({low:.1%} to {high:.1%})"
