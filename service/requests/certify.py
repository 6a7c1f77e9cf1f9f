"""The request of `plumbline certify`."""

from dataclasses import dataclass, field
from pathlib import Path

from models.errors import InputError
from service.requests.options import ImageOptions, NormalizationOptions, Seed, Whole

__all__ = ["CertifyRequest"]


@dataclass(frozen=True, kw_only=True)
class CertifyRequest:
    """Certify the answers of a network, or an artifact, by randomised smoothing.

    Args:
        out: folder of report.json, images.csv, certified.png, and the votes from which an interrupted run resumes.
        network: reference of the network, which rejects nothing; beside `artifact`, only for a user's file.
        artifact: folder that `plumbline fit` wrote; its flags are rejections.
        verify_key: refuse an artifact that is not signed with the secret in this file.
        normalization: of the network.
        images: labelled images.
        sigma: standard deviation of the noise, in units of pixels in [0, 1].
        samples: noisy copies per image.
        threshold: vote share above which a class is answered, at least 0.5; a larger one rejects more.
        alpha: maximum probability that the certificate of an image is wrong.
        device: cpu or cuda.
        seed: seed of the noise and of the sample of images.

    Raises:
        InputError: neither network nor artifact, or an option that has no effect.
    """

    out: Path
    network: str | None = None
    artifact: Path | None = None
    verify_key: Path | None = None
    normalization: NormalizationOptions = field(default_factory=NormalizationOptions)
    images: ImageOptions = field(default_factory=ImageOptions)
    sigma: float = 0.25
    samples: Whole = 1000
    threshold: float = 0.5
    alpha: float = 0.001
    device: str = "cpu"
    seed: Seed = 0

    def __post_init__(self) -> None:
        if self.artifact is None:
            if self.network is None:
                raise InputError("there is nothing to certify; give --network or --artifact")
            if self.verify_key is not None:
                raise InputError("--verify-key has no effect without --artifact; add --artifact")
        elif (self.normalization.mean, self.normalization.std) != (None, None):
            raise InputError("an artifact has its own normalisation; leave --mean and --std out")
        elif (self.images.resize, self.images.crop) != (None, None):
            raise InputError("an artifact has its own preprocessing; leave --resize and --crop out")
