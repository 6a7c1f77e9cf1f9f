"""The request of `plumbline calibrate`."""

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from service.requests.options import ArtifactOptions, LoadingOptions, Memory, Seed

__all__ = ["CalibrateRequest"]


@dataclass(frozen=True, kw_only=True)
class CalibrateRequest:
    """Write an artifact with a new threshold; network and detector stay the same.

    Args:
        artifact: artifact that gets a new threshold.
        out: folder of the artifact to write.
        on: natural images: a data set of `plumbline list datasets`, such as images:FOLDER or npz:FILE.
        from_reviews: store that `plumbline serve --store` wrote; its reviewed random sample is used.
        keep_flagged: folder of the images of the store, as given to `plumbline serve`.
        model: name of the model in the store [default: the only one].
        since: use the random sample from this time (UTC) on [default: all].
        until: use the random sample before this time (UTC) [default: all].
        fpr: false-positive rate to calibrate to [default: that of the artifact].
        sign_key: sign the artifact with the secret in this file.
        loading: how the images of `on` are loaded.
        memory: memory that the job may use, such as 3GB [default: a share of what is free].
        seed: seed of the sample of `--limit`.
    """

    artifact: ArtifactOptions
    out: Path
    on: str | None = None
    from_reviews: Path | None = None
    keep_flagged: Path | None = None
    model: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    fpr: float | None = None
    sign_key: Path | None = None
    loading: LoadingOptions = field(default_factory=LoadingOptions)
    memory: Memory | None = None
    seed: Seed = 0
