"""The published figures of detection (thesis, tables 12 to 15 and 32 to 47)."""

import csv
import io
from collections.abc import Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import NamedTuple

from models.errors import InputError
from service.inputs.names import plain_name

__all__ = ["COLUMNS", "PUBLISHED", "Published", "chosen_rows", "read_published"]

PUBLISHED = files("service.report") / "published" / "detection.csv"
COLUMNS = (
    "table", "network", "dataset", "training", "detector", "setting", "detector_trained_on", "tested_on", "metric",
)  # fmt: skip


class Published(NamedTuple):
    """One published figure: a mean in [0, 1], and its standard deviation if given."""

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

    A row without a standard deviation takes it from the appendix, which repeats the same figure.

    Raises:
        InputError: the file cannot be read, or has other columns or values.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise InputError(f"expected a CSV file of published figures, got {path}: {exc}") from exc
    reader = csv.DictReader(io.StringIO(text))
    wanted = (*COLUMNS, "mean_percent", "std")
    if missing := [name for name in wanted if name not in (reader.fieldnames or ())]:
        raise InputError(f"expected the columns {', '.join(wanted)} in {path}, got none named {', '.join(missing)}")
    rows = []
    for number, row in enumerate(reader, 2):
        try:
            mean = round(float(row["mean_percent"]) / 100, 9)
            std = round(float(row["std"]) / 100, 9) if row["std"] else None
        except (TypeError, ValueError) as exc:
            raise InputError(f"expected numbers in line {number} of {path}, got {row!r}") from exc
        rows.append(Published(**{name: row[name] or "" for name in COLUMNS}, mean=mean, std=std))
    deviations = {row[1:9]: row.std for row in rows if row.std is not None}
    return [row._replace(std=deviations.get(row[1:9])) if row.std is None else row for row in rows]


def chosen_rows(rows: Sequence[Published], dataset: str, published: str | None = None) -> list[Published]:
    """The rows of the named network or data set, or of the data set of that name.

    Args:
        rows: all published figures.
        dataset: name of the evaluated data set.
        published: name of a published network or data set.

    Raises:
        InputError: no row has this network or data set.
    """
    known = ", ".join(sorted({name for row in rows for name in (row.network, row.dataset)}))
    if published is not None:
        wanted = plain_name(published)
        chosen = [row for row in rows if wanted in (plain_name(row.network), plain_name(row.dataset))]
        if not chosen:
            raise InputError(f"expected a published network or data set out of {known}, got {published!r}")
        return chosen
    chosen = [row for row in rows if plain_name(row.dataset) == plain_name(dataset)]
    if not chosen:
        raise InputError(f"expected --published beside --beside-paper for {dataset}, got none; name one of {known}")
    return chosen
