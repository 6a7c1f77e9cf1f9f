"""The top of the page: what was evaluated, the figures that matter most, and what to be careful about."""

from collections.abc import Sequence
from html import escape
from typing import Any

from service.evaluation.records import DetectorResult
from service.formatting import area, asked, between, counted, percent
from service.report.cells import fitted, lead, of_group, spread_text
from service.report.markup import name_of
from service.report.selection import shortened

__all__ = ["header", "tiles", "warnings"]

_SUBJECTS = {"artifact": "artifact", "network": "network", "detector": "detector", "dataset": "data set"}
_FEW_WARNINGS = 6


def header(found: dict[str, Any], facts: dict[str, Any], contents: Sequence[tuple[str, str]]) -> str:
    """Title, what was evaluated, and links to the sections."""
    told = [(label, name_of(facts.get(key))) for key, label in _SUBJECTS.items()]
    parts = [f"<span>{label} <b>{escape(shortened(name, 60))}</b></span>" for label, name in told if name]
    runs = f"{counted(found['runs'], 'run')}, " if found["runs"] else ""
    protocol = f"<span>{runs}protocol <b>{escape(found['protocol'])}</b></span>"
    links = "".join(f'<li><a href="#{anchor}">{label}</a></li>' for anchor, label in contents)
    return (
        '<header><h1>How well are attacked images and outliers told from natural ones?</h1><p class="facts">'
        + "".join([*parts, protocol])
        + f'</p><nav aria-label="sections"><ul>{links}</ul></nav></header>'
    )


def tiles(found: dict[str, Any], detector_result: DetectorResult | None) -> str:
    """The figures of the detector that stands for the evaluation: natural accuracy, false positives, worst case,
    attacks."""
    natural = found["natural"]
    shown = [
        (
            "natural accuracy of the network",
            percent(natural["accuracy"]),
            f"of {counted(natural['images'], 'image')}; 95 % interval {between(natural['accuracy_interval'])}",
        )
    ]
    about = ""
    if detector_result is not None:
        key = detector_result.detector, list(detector_result.fitted_on)
        shown += [*_false_positives(found, key), *_worst_case(found, key), *_extremes(found, key)]
        name, words = shortened(detector_result.detector, 80), fitted({"fitted_on": detector_result.fitted_on})
        about = (
            f'<p class="caption">All but the first: <b class="name">{escape(name)}</b>, '
            f"fitted on {escape(shortened(words, 160))}.</p>"
        )
    cells = "".join(
        f'<div class="tile"><h2>{what}</h2><p class="number">{escape(number)}</p><p>{escape(note)}</p></div>'
        for what, number, note in shown
    )
    return f'<section><div class="tiles">{cells}</div>{about}</section>'


Tile = tuple[str, str, str]


def _false_positives(found: dict[str, Any], key: tuple[str, list[str]]) -> list[Tile]:
    for entry in found["false_positives"]:
        if (entry["detector"], entry["fitted_on"]) == key:
            note = f"asked for: {asked(entry['nominal'])}; {_spread(entry, 'realised', entry['runs'][0]['interval'])}"
            return [("false-positive rate", percent(entry["mean"]["realised"]), note)]
    return []


def _worst_case(found: dict[str, Any], key: tuple[str, list[str]]) -> list[Tile]:
    for entry in found["worst_case"]:
        if (entry["detector"], entry["fitted_on"]) == key and entry["mean"]["share"] is not None:
            spread = _spread(entry, "share", entry["runs"][0]["interval"])
            note = (
                f"of {entry['mean']['successful']:,.0f} images; {spread}. "
                "An image counts when it is flagged under every attack that was successful on it"
            )
            tiles = [("flagged, worst case over attacks", percent(entry["mean"]["share"]), note)]
            system = entry["mean"]["system_accuracy"]
            if system is not None:
                note = "right and let through as they are, and under no attack wrong and let through"
                tiles.append(("network and detector together", percent(system), note))
            return tiles
    return []


def _spread(entry: dict[str, Any], key: str, interval: Sequence[float] | None) -> str:
    if len(entry["runs"]) > 1:
        return f"± {percent(entry['std'][key])} over {len(entry['runs'])} runs"
    return f"95 % interval {between(interval)}"


def _extremes(found: dict[str, Any], key: tuple[str, list[str]]) -> list[Tile]:
    """The attacks with the highest and the lowest AUROC on successful images."""
    ranked = sorted(
        (
            (value, entry)
            for entry in found["results"]
            if (entry["detector"], entry["fitted_on"]) == key
            and entry["kind"] == "attack"
            and (value := of_group(entry, lead(entry), "auroc")[0]) is not None
        ),
        key=lambda pair: pair[0],
    )
    if len(ranked) < 2:
        return []
    return [
        (f"AUROC on the attack told {word}", area(value), f"{shortened(entry['tested_on'], 60)}, "
         f"{'seen' if entry['seen'] else 'unseen'}; {_more(entry)}")
        for word, (value, entry) in (("best", ranked[-1]), ("worst", ranked[0]))
    ]  # fmt: skip


def _more(entry: dict[str, Any]) -> str:
    flagged = of_group(entry, lead(entry), "flagged")
    return f"flagged: {spread_text(*flagged, percent)}"


def warnings(found: dict[str, Any]) -> str:
    """Every warning; where there are many, the rest is folded away."""
    given = [f"<li>{escape(warning)}</li>" for warning in found["warnings"]]
    if not given:
        return ""
    few, rest = given[:_FEW_WARNINGS], given[_FEW_WARNINGS:]
    more = f"<details><summary>{len(rest)} more</summary><ul>{''.join(rest)}</ul></details>" if rest else ""
    return f'<section class="warnings"><h2>Read with care</h2><ul>{"".join(few)}</ul>{more}</section>'
