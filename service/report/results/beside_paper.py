"""The published figures beside those of an evaluation."""

from collections.abc import Sequence
from typing import Any, Literal

from service.formatting import name_of
from service.inputs.names import OUTLIER_PREFIX, plain_name
from service.report.results.cells import of_group
from service.report.results.epsilon import epsilon_of
from service.report.results.published import COLUMNS, Published, chosen_rows

__all__ = ["beside_paper"]

Training = Literal["VAN", "LAP", "RCE"]

_DETECTORS = {"TR": "transport", "MH": "mahalanobis", "NS": "nss"}
_ATTACKS = {
    "FGM": "fgm", "BIM": "bim", "PGD": "pgd", "APGD": "apgd", "AA": "autoattack", "DF": "deepfool",
    "CW": "carlini_wagner", "HSJ": "hop_skip_jump", "BA": "boundary",
}  # fmt: skip
# Published metric → key among the figures at a decision of 0.5, and the substitute for a detector without components.
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
_NEAR_EPSILON = 0.0015  # 8/255 is compared with 0.03, with a note


def beside_paper(
    figures: dict[str, Any], provenance: dict[str, Any], rows: Sequence[Published], *, published: str | None = None
) -> dict[str, Any]:
    """Each published figure with ours, JSON values: "beside_paper" of report.json.

    Ours is null where there is none, and for another training than our network's (vanilla if the provenance does not
    name it). A transport detector without options is compared with TR, and so on; an artifact by its own detector.

    Args:
        figures: of `service.evaluation.summary.figures`.
        provenance: the evaluation's.
        rows: of `read_published`.
        published: name of a published network or data set; by default the evaluation's data set.

    Raises:
        InputError: no published row has that name.
    """
    training, known = _training_of(provenance)
    index = _Index(figures, provenance)
    pairs = [
        {
            **{name: getattr(row, name) for name in COLUMNS},
            "published": {"mean": row.mean, "std": row.std},
            "ours": index.beside(row) if row.training == training else None,
        }
        for row in chosen_rows(rows, name_of(provenance.get("dataset")), published)
    ]
    return {
        "protocol": figures["protocol"],
        "network": name_of(provenance.get("network")) or None,
        "dataset": name_of(provenance.get("dataset")) or None,
        "training": training,
        "training_told": known,
        "rows": pairs,
    }


def _training_of(provenance: dict[str, Any]) -> tuple[Training, bool]:
    """The training of our network, and whether the provenance names it; vanilla if it does not."""
    fitted = provenance.get("fitted")
    places = [provenance.get("trained"), provenance.get("network"), provenance, fitted]
    if isinstance(fitted, dict):
        places += [fitted.get("trained"), fitted.get("network")]
    for place in places:
        name = name_of(place.get("objective")) if isinstance(place, dict) else ""
        if name in _OBJECTIVES:
            return _OBJECTIVES[name], True
    return "VAN", False


class _Index:
    """An evaluation's results under the names of the published tables."""

    def __init__(self, figures: dict[str, Any], provenance: dict[str, Any]) -> None:
        self.protocol = figures["protocol"]
        self.sets = {entry["name"]: entry for entry in figures["sets"]}
        self.reference = provenance.get("reference")
        own = name_of(provenance.get("detector"))
        self.entries: dict[tuple[str, tuple[str, ...], str], dict[str, Any]] = {}
        # A label without options comes first, and what comes first stays.
        for entry in sorted(figures["results"], key=lambda entry: entry["detector"].count(":")):
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
        """Our sets of a published name, the nearest budget first."""
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
        """Differences of ours from the published setting, beside the network."""
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
