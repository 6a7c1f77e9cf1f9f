"""Tables of time and memory. A speed is a ratio of two durations in one run, with its quartiles over rounds."""

import csv
from collections.abc import Mapping
from pathlib import Path

from benchmarks.tables.cells import Result, number, percent, ratio, shown

__all__ = [
    "attack_precision",
    "attacks",
    "cost",
    "evaluation_memory",
    "inference",
    "memory",
    "memory_growth",
    "overhead",
    "verdict_cost",
]

PUBLISHED_MEMORY = Path(__file__).resolve().parent / "paper" / "memory.csv"


def attacks(result: Result) -> list[str]:
    """Our attacks beside another library on the same images."""
    lines = [
        "| attack | images | times as fast (quartiles) | requirement "
        "| success, ours / theirs | median L2, ours / theirs |",
        "|---|---|---|---|---|---|",
    ]
    for case in result["cases"]:
        both = (case["ours"], case["theirs"])
        success = " / ".join(percent(each.get("success", each.get("success_rate"))) for each in both)
        norms = " / ".join(number(each["l2_median"], 1, 3) for each in both)
        bar = "–" if case["bar"] is None else f"{case['bar']:g}"
        lines.append(
            f"| {shown(case['attack'])} | {case.get('n', result['n'])} | {ratio(case['ratio'])} | {bar} | {success} | "
            f"{norms} |"
        )
    return lines


def attack_precision(result: Result) -> list[str]:
    """PGD with gradients in float32 beside PGD with gradients in bfloat16."""
    lines = [
        "| network | pixels | images | times as fast (quartiles) | requirement "
        "| success, float32 / bfloat16 | median L2, float32 / bfloat16 |",
        "|---|---|---|---|---|---|---|",
    ]
    for case in result["cases"]:
        both = (case["float32"], case["bfloat16"])
        lines.append(
            f"| {case['network']} | {case['size']} | {case['n']} | {ratio(case['ratio'])} | {case['bar']:g} | "
            f"{' / '.join(percent(each['success']) for each in both)} | "
            f"{' / '.join(number(each['l2_median'], 1, 3) for each in both)} |"
        )
    return lines


def cost(result: Result) -> list[str]:
    """A row per detector and batch: with the detector ÷ the network alone, eager and compiled, and the state."""
    lines = [
        "| detector | batch | ÷ network alone | of which scoring | compiled: pass ÷ network alone | scoring | state |",
        "|---|---|---|---|---|---|---|",
    ]
    for batch, twice in result["twice_the_batch"].items():
        lines.append(f"| none, twice as many images | {batch} | {ratio(twice)} | – | – | – | – |")
    for case in result["cases"]:
        compiled = case["compiled"]
        cells = (ratio(compiled["passing"]), f"{compiled['scoring']['ratio']:.3f}") if compiled else ("–", "–")
        lines.append(
            f"| {case['detector']} | {case['batch']} | {ratio(case['ratio'])} | {case['scoring']['ratio']:.3f} | "
            f"{' | '.join(cells)} | {case['state_bytes'] / 1e6:.2f} MB |"
        )
    return lines


def verdict_cost(result: Result) -> list[str]:
    """Duration of a verdict ÷ duration of the plain forward pass, by engine."""
    lines = [
        "| network | detector | engine | precision | batch | ÷ forward pass (quartiles) | requirement | score, ms |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for case in result["cases"]:
        bar = "–" if case["bar"] is None else f"≤ {case['bar']:g}"
        lines.append(
            f"| {case['network']} | `{case['detector']}` | {case['engine']} | {case['precision']} | {case['batch']} | "
            f"{ratio(case['ratio'])} | {bar} | {case['score_ms']:.3f} |"
        )
    return lines


def overhead(result: Result) -> list[str]:
    """Duration of a training step ÷ that of a step with cross-entropy."""
    return [
        "| objective | network | blocks | batch | precision | duration ÷ cross-entropy's (quartiles) | requirement |",
        "|---|---|---|---|---|---|---|",
        *(
            f"| `{case['objective']}` | {case['network']} | {case['blocks']} | {case['batch']} | {case['precision']} | "
            f"{case['ratio']:.3f} ({case['low']:.3f} to {case['high']:.3f}) | "
            f"{'–' if case['bar'] is None else format(case['bar'], '.2f')} |"
            for case in result["cases"]
        ),
    ]


def memory(result: Result) -> list[str]:
    """Reduction of a step's peak memory by training module by module, beside the published figures."""
    with PUBLISHED_MEMORY.open(encoding="utf-8", newline="") as file:
        published = {
            (row["network"], row["modules"], row["split"], row["method"]): f"{row['saved_percent']} %"
            for row in csv.DictReader(file)
        }
    lines = [
        "| network | images | end to end, MiB | K | equally | VanGL | published | TRGL | published |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for case in result["cases"]:
        saved = {(row["modules"], row["split"], row["objective"]): row["saved"] for row in case["rows"]}
        images = f"{case['batch']} of {case['size']}×{case['size']}"
        for modules, split in dict.fromkeys((modules, split) for modules, split, _ in saved):
            cells = [
                f"{100 * saved[modules, split, method]:.0f} % | "
                f"{published.get((case['network'], str(modules), split, method), '–')}"
                for method in ("VanGL", "TRGL")
            ]
            lines.append(
                f"| {case['network']} | {images} | {case['end_to_end_mib']:,.0f} | {modules} | "
                f"{'deep' if split == 'depth' else 'heavy'} | {' | '.join(cells)} |"
            )
    return lines


def evaluation_memory(result: Result) -> list[str]:
    """Peak and processor time of an evaluation of photos, now and before batches followed memory."""
    titles = {"before": "batches of fixed sizes", "now": "batches that follow memory"}
    lines = ["| | peak, GB | processor time, s |", "|---|---|---|"]
    for name, run in result["evaluations"].items():
        lines.append(f"| {titles[name]} | {run['peak_mib'] * 2**20 / 1e9:.1f} | {run['cpu_seconds']:.0f} |")
    return lines


def memory_growth(result: Result) -> list[str]:
    """Peak of an evaluation by number of photos."""
    rows = [f"| {row['photos']:,} | {row['peak_mib']:,.0f} |" for row in result["growth"]]
    return ["| photos | peak, MiB |", "|---|---|", *rows]


def inference(results: Mapping[str, Result]) -> list[str]:
    """Ratios of inference: statistics, forests, batches and serving."""
    extraction, forests, serving = (results[name] for name in ("extraction", "forests", "serving"))
    (deep,) = (
        case["ratios"]
        for case in extraction["cases"]
        if case["network"] == "resnet56" and case["memory_format"] == "channels_last"
    )
    depth = {case["depth"]: case for case in results["scaling"]["depth"]}
    growth = depth[110]["ms_per_image"] / depth[20]["ms_per_image"]
    one, many = forests["rows_1_against_predict_proba"], forests["rows_256_against_predict_proba"]
    rows = [
        (
            f"forward pass with statistics ÷ plain forward pass, ResNet-56, batch {extraction['n']}",
            f"{deep['recorder']['ratio']:.2f} with hooks, {deep['module']['ratio']:.2f} as a rewritten graph, "
            f"{deep['compiled']['ratio']:.2f} compiled",
        ),
        ("the same with a loop over images instead", f"{deep['per_image_loop']['ratio']:.2f}"),
        (
            f"time per image with statistics, ResNet-110 ÷ ResNet-20 ({depth[110]['blocks']} and {depth[20]['blocks']} "
            f"blocks; statistics add {depth[110]['memory']['added_by_statistics_KiB']:.1f} KiB of memory at most)",
            f"{growth:.1f}",
        ),
        (
            f"forests ÷ scikit-learn's `predict_proba`, identical answers, {forests['trees']} trees each",
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
    return ["| speed | ratio |", "|---|---|", *(f"| {what} | {figure} |" for what, figure in rows)]
