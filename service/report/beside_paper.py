"""The published figures (thesis, tables 12 to 15 and 32 to 47) beside an evaluation's own."""

import csv
import io
from collections.abc import Iterable, Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any, Literal, NamedTuple

from models.errors import InputError
from service.report.cells import of_group
from service.report.epsilon import epsilon_of
from service.report.markup import name_of
from service.report.outliers import OUTLIER_PREFIX, plain_name

__all__ = ["PUBLISHED", "Published", "beside_paper", "beside_paper_csv", "chosen_rows", "read_published"]

PUBLISHED = files("service.report") / "published" / "detection.csv"
Training = Literal["VAN", "LAP", "RCE"]

_DETECTORS = {"TR": "transport", "MH": "mahalanobis", "NS": "nss"}
_ATTACKS = {
    "FGM": "fgm", "BIM": "bim", "PGD": "pgd", "APGD": "apgd", "AA": "autoattack", "DF": "deepfool",
    "CW": "carlini_wagner", "HSJ": "hop_skip_jump", "BA": "boundary",
}  # fmt: skip
# Published metric → key among the figures at a vote of 0.5, and what stands in for it where a detector has no votes.
_METRICS: dict[str, tuple[str, tuple[str, str] | None]] = {
    "accuracy": ("accuracy", None),
    "detection_rate_successful": ("flagged_successful", ("successful", "flagged")),
    "fpr": ("fpr", None),
    "auroc": ("auroc_all_class", ("all", "auroc")),
    "fpr_at_95_tpr": ("fpr_at_95_tpr", ("all", "fpr_at_95_tpr")),
}
_OBJECTIVES: dict[str, Training] = {
    "cross_entropy": "VAN", "least_action": "LAP", "reverse_cross_entropy": "RCE",
}  # fmt: skip
_EPSILON = 0.03  # of the published attacks that have a budget
_NEAR_EPSILON = 0.0015  # 8/255 stands beside 0.03, and is noted
_COLUMNS = (
    "table", "network", "dataset", "training", "detector", "setting", "detector_trained_on", "tested_on", "metric",
)  # fmt: skip


class Published(NamedTuple):
    """One published figure; a mean in [0, 1], and its standard deviation where it is given."""

    table: str
    network: str
    dataset: str
    training: str
    detector: str
    setting: str
    detector_trained_on: str
    tested_on: str
    metric: str
    mean: float
    std: float | None


def read_published(path: Traversable = PUBLISHED) -> list[Published]:
    """The rows of a CSV file of published figures, the package's own by default, with percentages as shares.

    A table without standard deviations takes them from the appendix, where the same figure stands with its own.

    Raises:
        InputError: no such file, or not of that form.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise InputError(f"expected a CSV file of published figures, got {path}: {exc}") from exc
    rows = []
    reader = csv.DictReader(io.StringIO(text))
    wanted = (*_COLUMNS, "mean_percent", "std")
    if missing := [name for name in wanted if name not in (reader.fieldnames or ())]:
        raise InputError(f"expected the columns {', '.join(wanted)} in {path}, got none named {', '.join(missing)}")
    for number, row in enumerate(reader, 2):
        try:
            mean = round(float(row["mean_percent"]) / 100, 9)
            std = round(float(row["std"]) / 100, 9) if row["std"] else None
        except (TypeError, ValueError) as exc:
            raise InputError(f"expected numbers in line {number} of {path}, got {row!r}") from exc
        told = {name: row[name] or "" for name in _COLUMNS}
        rows.append(Published(**told, mean=mean, std=std))
    deviations = {row[1:9]: row.std for row in rows if row.std is not None}
    return [row._replace(std=deviations.get(row[1:9])) if row.std is None else row for row in rows]


def chosen_rows(rows: Sequence[Published], dataset: str, published: str | None = None) -> list[Published]:
    """The rows of the network or data set asked for, else of the data set of that name.

    Raises:
        InputError: no row has the network or data set asked for, or none is asked for and no row has this data set.
    """
    known = ", ".join(sorted({name for row in rows for name in (row.network, row.dataset)}))
    if published is not None:
        wanted = plain_name(published)
        found = [row for row in rows if wanted in (plain_name(row.network), plain_name(row.dataset))]
        if not found:
            raise InputError(f"expected a published network or data set out of {known}, got {published!r}")
        return found
    found = [row for row in rows if plain_name(row.dataset) == plain_name(dataset)]
    if not found:
        raise InputError(f"expected --published beside --beside-paper for {dataset}, got none; name one of {known}")
    return found


def beside_paper(
    found: dict[str, Any], facts: dict[str, Any], rows: Sequence[Published], *, published: str | None = None
) -> dict[str, Any]:
    """Each published figure with ours, JSON values: "beside_paper" of report.json.

    Ours are given for the training that our network had (vanilla where the facts do not say) and are null where there
    is none. A transport detector without options stands for TR, and so on; an artifact stands for its own detector.

    Args:
        found: of `service.evaluation.summary.figures`.
        facts: the evaluation's.
        rows: of `read_published`.
        published: name of a published network or data set; the evaluation's data set where not given.

    Raises:
        InputError: no published row has that name.
    """
    training, told = _training_of(facts)
    index = _Index(found, facts)
    pairs = []
    for row in chosen_rows(rows, name_of(facts.get("dataset")), published):
        ours = index.beside(row) if row.training == training else None
        pairs.append(
            {
                **{name: getattr(row, name) for name in _COLUMNS},
                "published": {"mean": row.mean, "std": row.std},
                "ours": ours,
            }
        )
    return {
        "protocol": found["protocol"],
        "network": name_of(facts.get("network")) or None,
        "dataset": name_of(facts.get("dataset")) or None,
        "training": training,
        "training_told": told,
        "rows": pairs,
    }


def _training_of(facts: dict[str, Any]) -> tuple[Training, bool]:
    """How our network was trained, and whether the facts say so; vanilla where they do not."""
    fitted = facts.get("fitted")
    places = [facts.get("trained"), facts.get("network"), facts, fitted]
    if isinstance(fitted, dict):
        places += [fitted.get("trained"), fitted.get("network")]
    for place in places:
        objective = place.get("objective") if isinstance(place, dict) else None
        name = name_of(objective)
        if name in _OBJECTIVES:
            return _OBJECTIVES[name], True
    return "VAN", False


class _Index:
    """An evaluation's results, found by what the published tables call them."""

    def __init__(self, found: dict[str, Any], facts: dict[str, Any]) -> None:
        self.protocol = found["protocol"]
        self.sets = {entry["name"]: entry for entry in found["sets"]}
        self.reference = facts.get("reference")
        own = name_of(facts.get("detector"))
        self.entries: dict[tuple[str, tuple[str, ...], str], dict[str, Any]] = {}
        # A label without options comes first, and what comes first stays.
        for entry in sorted(found["results"], key=lambda entry: entry["detector"].count(":")):
            name = entry["detector"].partition(":")[0]
            name = own if name == "artifact" else name
            self.entries.setdefault((name, tuple(entry["fitted_on"]), entry["tested_on"]), entry)

    def beside(self, row: Published) -> dict[str, Any] | None:
        """Our figure for a published one, or None."""
        detector = _DETECTORS.get(row.detector)
        for tested in self._names(row.tested_on):
            for fitted in self._names(row.detector_trained_on) if row.detector_trained_on else [tested]:
                entry = self.entries.get((detector or "", (fitted,), tested))
                ours = None if entry is None else self._figure(entry, row.metric)
                if ours is not None:
                    return ours
        return None

    def _names(self, published: str) -> list[str]:
        """Our sets that a published name stands for, the nearest budget first."""
        head = published.partition("-")[0]  # CW-CIFAR10: that attack on that data set
        if head not in _ATTACKS:
            outliers = [n for n in self.sets if n.startswith(OUTLIER_PREFIX)]
            return [name for name in outliers if plain_name(name) == plain_name(published)]
        chosen = []
        for name, entry in self.sets.items():
            if entry["kind"] == "attack" and name.partition(":")[0] == _ATTACKS[head]:
                epsilon = epsilon_of(entry["attack"])
                off = 0.0 if epsilon is None else abs(epsilon - _EPSILON)
                if off <= _NEAR_EPSILON:
                    chosen.append((off, name.count(":"), name))
        return [name for *_, name in sorted(chosen)]

    def _figure(self, entry: dict[str, Any], metric: str) -> dict[str, Any] | None:
        key, instead = _METRICS.get(metric, ("", None))
        mean, std, _ = of_group(entry, "paper", key)
        decision = "vote of 0.5"
        if mean is None and instead is not None:
            mean, std, _ = of_group(entry, *instead)
            decision = "score"
        if mean is None:
            return None
        return {
            "detector": entry["detector"],
            "fitted_on": entry["fitted_on"],
            "tested_on": entry["tested_on"],
            "mean": mean,
            "std": std,
            "runs": len(entry["runs"]),
            "images": entry["runs"][0]["images"],
            "decision": decision,
            "notes": self._notes(entry, decision),
        }

    def _notes(self, entry: dict[str, Any], decision: str) -> list[str]:
        """How ours differs from what was published, beyond the network."""
        images = self.sets[entry["tested_on"]]
        epsilon = epsilon_of(images["attack"])
        notes = []
        if self.protocol != "paper":
            notes.append("sound protocol's split")
        if decision != "vote of 0.5":
            notes.append("from the score, no votes")
        if epsilon is not None and abs(epsilon - _EPSILON) > 1e-6:
            notes.append(f"ε {255 * epsilon:.3g}/255")
        if images["eight_bit"]:
            notes.append("8-bit")
        if ":" in entry["detector"]:
            notes.append(entry["detector"])
        if entry["detector"].startswith("mahalanobis") and not self.reference:
            notes.append("means and covariance from a quarter of the fitting images")
        return notes


def beside_paper_csv(beside: dict[str, Any]) -> str:
    """The pairs as CSV, in per cent as published; "not run" where there is none of ours."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(
        [*_COLUMNS, "published_percent", "published_std", "our_percent", "our_std", "our_detector", "our_fitted_on",
         "our_tested_on", "our_runs", "our_images", "protocol", "notes"]
    )  # fmt: skip
    for pair in beside["rows"]:
        ours = pair["ours"]
        told: Iterable[Any] = ["not run", *[""] * 8]
        if ours is not None:
            told = [
                _percent(ours["mean"]), _percent(ours["std"]), ours["detector"], "+".join(ours["fitted_on"]),
                ours["tested_on"], ours["runs"], ours["images"], beside["protocol"], "; ".join(ours["notes"]),
            ]  # fmt: skip
        given = (_percent(pair["published"][key]) for key in ("mean", "std"))
        writer.writerow([*(pair[name] for name in _COLUMNS), *given, *told])
    return buffer.getvalue()


def _percent(share: float | None) -> float | str:
    return "" if share is None else round(100 * share, 6)
