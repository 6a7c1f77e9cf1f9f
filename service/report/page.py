"""The report as one HTML page: no script, nothing from elsewhere, light and dark, wide and narrow."""

import json
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from service.evaluation import Evaluation
from service.report import captions
from service.report.paths import draw_paths, heading
from service.report.plots import draw_roc, draw_scores
from service.report.style import STYLE
from service.report.svg import inline_svg
from service.report.tables import headline, seen_word
from service.wording import area, asked, between, counted, percent

__all__ = ["as_page"]

_SUBJECTS = {"network": "network", "detector": "detector", "dataset": "data set"}


def as_page(figures: dict[str, Any], evaluation: Evaluation, facts: dict[str, Any]) -> str:
    """The page. Whatever came from outside (names of attacks, classes, files) is escaped.

    Args:
        figures: of `service.evaluation.figures`.
        evaluation: what they were taken from; its images are drawn.
        facts: the evaluation's, as JSON values.
    """
    sections = [
        _header(facts),
        _tiles(figures),
        _warnings(figures["warnings"]),
        _headline_table(figures),
        _pictures(figures, evaluation) if evaluation.attacked else "",
        _detail_tables(figures) if figures["attacks"] else "",
        _provenance(evaluation, facts),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>Plumbline: evaluation</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(section for section in sections if section)
        + "\n</main>\n</body>\n</html>\n"
    )


def _header(facts: dict[str, Any]) -> str:
    told = [(label, _name_of(facts.get(key))) for key, label in _SUBJECTS.items()]
    parts = [f"<span>{label} <b>{escape(name)}</b></span>" for label, name in told if name]
    return (
        '<header><h1>How well are attacked images told from natural ones?</h1><p class="facts">'
        + "".join(parts)
        + "</p></header>"
    )


def _name_of(fact: Any) -> str:
    """What a reader calls a network, detector or data set: the fact itself, or the name in it."""
    if isinstance(fact, dict):
        fact = fact.get("name")
    return fact if isinstance(fact, str) else ""


def _tiles(figures: dict[str, Any]) -> str:
    natural, rates, worst = figures["natural"], figures["false_positives"], figures["worst_case"]
    tiles = [
        (
            "natural accuracy",
            percent(natural["accuracy"]),
            f"of {counted(natural['images'], 'image')}; 95 % interval {between(natural['accuracy_interval'])}",
        ),
        (
            "false-positive rate",
            percent(rates["realised"]),
            f"asked for: {asked(rates['nominal'])}; 95 % interval {between(rates['interval'])}",
        ),
    ]
    if worst is not None and worst["share"] is not None:
        tiles.append(
            (
                "flagged, worst case over attacks",
                percent(worst["share"]),
                f"of {counted(worst['successful'], 'image')}; 95 % interval {between(worst['interval'])}. An image "
                "counts when it is flagged under every attack that was successful on it",
            )
        )
        tiles.append(
            (
                "network and detector together",
                percent(worst["system_accuracy"]),
                "right and let through as they are, and under no attack wrong and let through",
            )
        )
    return (
        '<section class="tiles">'
        + "".join(
            f'<div class="tile"><h2>{what}</h2><p class="number">{number}</p><p>{note}</p></div>'
            for what, number, note in tiles
        )
        + "</section>"
    )


def _warnings(warnings: Sequence[str]) -> str:
    if not warnings:
        return ""
    items = "".join(f"<li>{escape(warning)}</li>" for warning in warnings)
    return f'<section class="warnings"><h2>Read with care</h2><ul>{items}</ul></section>'


def _headline_table(figures: dict[str, Any]) -> str:
    if not figures["attacks"]:
        return ""
    rows = []
    for entry in figures["attacks"]:
        found = headline(entry)
        rows.append(
            (
                _attack_cell(entry),
                percent(entry["accuracy"]),
                _with_interval(area(found.get("auroc")), found.get("auroc_interval"), area),
                percent(found.get("tpr_at_5_fpr")),
                _with_interval(percent(found.get("flagged")), found.get("flagged_interval"), percent),
            )
        )
    headers = ("attack", "accuracy under attack", "AUROC", "TPR at 5 % FPR", "flagged at the threshold")
    return f"<section><h2>Attack by attack</h2>{_table(headers, rows, captions.HEADLINE)}</section>"


def _detail_tables(figures: dict[str, Any]) -> str:
    rows, papers = [], []
    for entry in figures["attacks"]:
        for group, label in (("successful", "successful"), ("failed", "failed"), ("all", "all")):
            found = entry["detection"][group] or {}
            rows.append(
                (
                    _attack_cell(entry) if group == "successful" else "",
                    label,
                    f"{found.get('images', 0):,}",
                    _with_interval(area(found.get("auroc")), found.get("auroc_interval"), area),
                    area(found.get("aupr")),
                    percent(found.get("tpr_at_5_fpr")),
                    percent(found.get("tpr_at_1_fpr")),
                    percent(found.get("fpr_at_95_tpr")),
                    percent(found.get("flagged")),
                )
            )
        system, paper = entry["system_accuracy"], entry["paper"] or {}
        papers.append(
            (
                _attack_cell(entry),
                percent(entry["success_rate"]),
                percent(system["natural"]),
                percent(system["adversarial"]),
                percent(paper.get("accuracy")),
                percent(paper.get("fpr")),
                percent(paper.get("flagged_successful")),
                area(paper.get("auroc_all_class")),
            )
        )
    details = _table(
        ("attack", "on", "images", "AUROC", "AUPR", "TPR at 5 % FPR", "TPR at 1 % FPR", "FPR at 95 % TPR", "flagged"),
        rows,
        captions.DETAILS,
    )
    together = _table(
        (
            "attack",
            "success rate",
            "together: natural",
            "together: attacked",
            "at 0.5: accuracy",
            "at 0.5: FPR",
            "at 0.5: successful flagged",
            "AUROC, all-class forest",
        ),
        papers,
        captions.TOGETHER,
    )
    return (
        "<section><h2>In detail</h2>" + details + "</section>"
        "<section><h2>Network and detector together, and the published protocol</h2>" + together + "</section>"
    )


def _attack_cell(entry: dict[str, Any]) -> str:
    word = seen_word(entry["seen"])
    chip = f' <span class="chip {word}">{word}</span>' if word else ""
    return f"<b>{escape(entry['name'])}</b>{chip}"


def _with_interval(value: str, interval: Sequence[float] | None, written: Any) -> str:
    if interval is None:
        return value
    low, high = (written(end).removesuffix(" %") for end in interval)
    return f"{value} <small>{escape(low)}–{escape(high)}</small>"


def _table(headers: Sequence[str], rows: Iterable[Sequence[str]], caption: str) -> str:
    """Cells are HTML already; the first column is the row's header."""
    head = "".join(f'<th scope="col">{header}</th>' for header in headers)
    body = "".join(
        "<tr>" + f'<th scope="row">{row[0]}</th>' + "".join(f"<td>{cell}</td>" for cell in row[1:]) + "</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
        + _caption(caption)
    )


def _caption(text: str) -> str:
    return f'<p class="caption">{text}</p>'


def _pictures(figures: dict[str, Any], evaluation: Evaluation) -> str:
    natural, attacks = evaluation.natural, figures["attacks"]
    areas = ", ".join(f"{entry['name']} {area(headline(entry).get('auroc'))}" for entry in attacks)
    roc = _figure(
        inline_svg(draw_roc(evaluation), prefix="roc", alt=f"ROC curves. Area under the curve: {areas}."),
        captions.ROC,
    )
    scores, paths = [], []
    for place, (entry, judged) in enumerate(zip(attacks, evaluation.attacked, strict=True)):
        flagged = percent((headline(entry) or entry["detection"]["all"])["flagged"])
        alt = (
            f"Histogram of scores, natural against {heading(judged)}: "
            f"{percent(figures['false_positives']['realised'])} of the natural images and {flagged} of the attacked "
            "ones are at or above the threshold."
        )
        scores.append(_figure(inline_svg(draw_scores(evaluation, place), prefix=f"scores{place}", alt=alt)))
        figure = draw_paths(
            natural,
            [judged],
            branches=evaluation.branches,
            columns_per_block=evaluation.columns_per_block,
            band=evaluation.band,
            first=place,
        )
        alt = (
            f"Squared norm and cosine of the residues of {counted(len(evaluation.branches), 'block')}: median path of "
            f"{heading(judged)} over the band of natural paths."
        )
        paths.append(_figure(inline_svg(figure, prefix=f"paths{place}", alt=alt)))
    number = counted(len(evaluation.branches), "block")
    blocks = "".join(f"<li><code>{escape(name)}</code></li>" for name in evaluation.branches)
    return (
        f'<section><h2>Found against flagged by mistake</h2><div class="figures single">{roc}</div></section>'
        f'<section><h2>Scores</h2><div class="figures">{"".join(scores)}</div>'
        f"{_caption(captions.SCORES)}</section>"
        f'<section><h2>Paths, block by block</h2><div class="figures">{"".join(paths)}</div>'
        f"{_caption(captions.PATHS)}<details><summary>Names of the {number}</summary>"
        f"<ol>{blocks}</ol></details></section>"
    )


def _figure(svg: str, caption: str = "") -> str:
    return f"<figure>{svg}" + (f"<figcaption>{caption}</figcaption>" if caption else "") + "</figure>"


def _provenance(evaluation: Evaluation, facts: dict[str, Any]) -> str:
    everything = {"threshold": evaluation.threshold, **facts}
    rows = "".join(f"<dt>{escape(str(key))}</dt><dd>{_fact(value)}</dd>" for key, value in everything.items())
    return (
        f'<section class="provenance"><h2>Where this comes from</h2><dl>{rows}</dl>'
        f"{_caption(captions.PROVENANCE)}</section>"
    )


def _fact(value: Any) -> str:
    if isinstance(value, dict | list):
        summary = _name_of(value) or counted(len(value), "value")
        return (
            f"<details><summary>{escape(summary)}</summary>"
            f"<pre>{escape(json.dumps(value, indent=2, ensure_ascii=False))}</pre></details>"
        )
    return escape("–" if value is None else str(value))
