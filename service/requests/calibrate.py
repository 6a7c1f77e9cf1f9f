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
        artifact: the artifact.
        out: folder of the artifact to write.
        on: natural images: a name from `plumbline list datasets`, npz:FILE or images:FOLDER.
        from_reviews: store that `plumbline serve --store` wrote; its random sample is used, once reviewed.
        keep_flagged: folder of the images that belong to the store.
        model: name of the model in the store [default: the only one].
        since: use the random sample from this time (UTC) on [default: all].
        until: use the random sample before this time (UTC) [default: all].
        fpr: false-positive rate to calibrate to [default: that of the artifact].
        sign_key: sign the artifact with the secret in this file.
        loading: how the images of `on` are loaded.
        memory: memory that the job may use, such as 3GB [default: a share of what is free].
        seed: of `--limit`.
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
