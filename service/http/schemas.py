"""The shapes of requests and answers under /v1, for validation and for the OpenAPI description."""

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["ErrorResponse", "ImageFailure", "ImageVerdict", "Live", "PredictRequest", "PredictResponse", "Ready"]


class _Schema(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PredictRequest(_Schema):
    """Images as base64."""

    images: list[str] = Field(min_length=1, description="each a whole JPEG, PNG or WebP file in base64")


class ImagePath(_Schema):
    """An image's statistics block by block, beside the band of natural paths: one row per block in each."""

    branches: list[str] = Field(description="names of the residual branches, in execution order")
    statistics: list[list[float]] = Field(description="‖r‖²/d, cos(r, 1), then further cosines")
    low: list[list[float]] = Field(description="5 % quantile over natural images")
    median: list[list[float]]
    high: list[list[float]] = Field(description="95 % quantile over natural images")


class ImageVerdict(_Schema):
    """What the classifier says about one image, and whether that can be trusted."""

    index: int = Field(ge=0, description="place of the image in the request")
    name: str | None = Field(description="file name, where the request gave one")
    label: int = Field(ge=0, description="index of the predicted class")
    class_name: str
    probability: float = Field(ge=0, le=1, description="softmax probability; high on most adversarial images too")
    score: float = Field(description="higher = more anomalous")
    p_value: float = Field(gt=0, le=1, description="share of natural images that score at least as high")
    flagged: bool = Field(description="whether the score reaches the threshold: do not trust the class")
    votes: dict[str, float] = Field(description="parts of the score, such as all_class and predicted_class")
    path: ImagePath | None = Field(None, description="only with ?path=true")


class ErrorDetail(_Schema):
    """Why an image or a request was refused."""

    code: str = Field(description="stable, for programs")
    message: str = Field(description="what was expected, what came, what to do")


class ImageFailure(_Schema):
    """One of several images that could not be judged."""

    index: int = Field(ge=0)
    name: str | None
    error: ErrorDetail


class PredictResponse(_Schema):
    """One result per image, in the request's order."""

    artifact: str = Field(description="digest of the artifact that judged")
    model: str = Field(description="name of its network")
    threshold: float = Field(description="an image is flagged when its score is at least this")
    fpr: float = Field(description="share of natural images that the threshold flags")
    results: list[ImageVerdict | ImageFailure]


class RequestErrorDetail(ErrorDetail):
    """Why a request was refused, with the id to find it by in the server's log."""

    request_id: str


class ErrorResponse(_Schema):
    """Every answer that is not 2xx."""

    error: RequestErrorDetail


class Live(_Schema):
    """Whether the process works; if not, restart it."""

    live: bool


class Ready(_Schema):
    """Whether to send requests here."""

    ready: bool
