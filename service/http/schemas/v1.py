"""Requests and responses under /v1, and of the health routes."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "ErrorResponse",
    "Feedback",
    "ImageFailure",
    "ImageVerdict",
    "Live",
    "ModelsResponse",
    "PredictRequest",
    "PredictResponse",
    "Ready",
    "Schema",
    "StatusResponse",
]


class Schema(BaseModel):
    """A frozen model without other fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class PredictRequest(Schema):
    """Images as base64."""

    images: list[str] = Field(min_length=1, description="each a whole JPEG, PNG or WebP file in base64")


class ImagePath(Schema):
    """Statistics of each block, and their band over natural images: one row per block in each list."""

    branches: list[str] = Field(description="names of the residual branches, in execution order")
    statistics: list[list[float]] = Field(description="‖r‖²/d, cos(r, 1), then further cosines")
    low: list[list[float]] = Field(description="5 % quantile over natural images")
    median: list[list[float]]
    high: list[list[float]] = Field(description="95 % quantile over natural images")


class ImageVerdict(Schema):
    """The predicted class of one image, and whether the prediction can be trusted: a `detector.pipeline.Verdict`."""

    index: int = Field(ge=0, description="place of the image in the request")
    name: str | None = Field(description="file name, if the request has one")
    label: int = Field(ge=0, description="index of the predicted class")
    class_name: str
    probability: float = Field(ge=0, le=1, description="softmax probability; also high for most adversarial images")
    score: float = Field(description="higher = more anomalous")
    p_value: float = Field(gt=0, le=1, description="share of natural images that score at least as high")
    flagged: bool = Field(description="whether the score reaches the threshold; if so, do not trust the class")
    components: dict[str, float] = Field(description="parts of the score, by name; larger = less natural")
    main_component: str | None = Field(description="the component that contributes most to the score")
    part_p_values: dict[str, float] | None = Field(
        None, description="p-values of the parts of the score, such as attack and outlier; only of scores with parts"
    )
    main_part: str | None = Field(None, description="the part that is least natural; only of scores with parts")
    votes: dict[str, float] = Field(deprecated=True, description="`components` by their former names")
    path: ImagePath | None = Field(None, description="only with ?path=true")


class ErrorDetail(Schema):
    """The reason why an image or a request is refused."""

    code: str = Field(description="stable identifier for programs")
    message: str = Field(description="the fault and its remedy, for people")


class ImageFailure(Schema):
    """One of several images, without a verdict."""

    index: int = Field(ge=0)
    name: str | None
    error: ErrorDetail


class PredictResponse(Schema):
    """One result per image, in the order of the request."""

    artifact: str = Field(description="digest of the artifact that scored the images")
    model: str = Field(description="name of the model that scored the images")
    threshold: float = Field(description="an image is flagged when its score is at least this")
    fpr: float = Field(description="share of natural images that the threshold flags")
    results: list[ImageVerdict | ImageFailure]


class RequestErrorDetail(ErrorDetail):
    """The reason why a request is refused, with its id in the server's log."""

    request_id: str


class ErrorResponse(Schema):
    """Every response whose status is not 2xx."""

    error: RequestErrorDetail


class ComponentDescription(Schema):
    """One component of the score."""

    name: str = Field(description="key in `components` of a verdict")
    title: str
    description: str = Field(description="one line")


class ModelDescription(Schema):
    """One served model."""

    name: str
    version: str = Field(description="first digits of the artifact's digest")
    artifact: str = Field(description="digest of its artifact")
    network: str
    detector: str
    engine: str = Field(description="runs the network, such as torch or onnxruntime")
    precision: str = Field(description="of the engine: float32 or bfloat16")
    classes: list[str]
    height: int = Field(description="of the network's images, in pixels")
    width: int
    threshold: float
    fpr: float
    components: list[ComponentDescription] = Field(description="components of the score")
    ready: bool


class ModelsResponse(Schema):
    """The served models; the first is the default."""

    models: list[ModelDescription]


class LatencyQuantiles(Schema):
    """Durations of the last minute's successful requests, in milliseconds."""

    p50: float | None
    p99: float | None
    count: int


class EValues(Schema):
    """log₁₀ of the e-values of the two tests."""

    flags: float
    distribution: float


class Band(Schema):
    """An interval of rates."""

    low: float
    high: float


class WatchAlarm(Schema):
    """The start of a warning or page, or the end of a page."""

    time: str = Field(description="UTC, ISO 8601")
    change: Literal["flags", "distribution", "page", "page_end"]
    images: int = Field(description="images watched until then")


class WatchStatus(Schema):
    """Whether the served images match the calibration."""

    level: Literal["ok", "warning", "page"]
    images: int = Field(description="images watched")
    repeated: int = Field(description="images that are not counted: they are similar to an earlier one of the key")
    flagged: int
    recent_rate: float = Field(description="share of flags, an average over about 250 images")
    log10_e: EValues
    warns_from: EValues = Field(description="log10_e of a warning")
    warned_at: dict[str, int] = Field(description="test → image of its warning")
    block: int = Field(description="images of one rate in block_rates")
    block_rates: list[float] = Field(description="share of flags in each of the last blocks, oldest first")
    band: Band = Field(description="99 % interval of a block's rate while the images match the calibration")
    histogram: list[int] = Field(description="number of p-values in intervals of equal length from 0 to 1")
    alarms: list[WatchAlarm] = Field(description="the last ones, oldest first")


class ModelStatus(Schema):
    """The load of one model."""

    name: str
    version: str
    network: str
    classes: int
    height: int
    width: int
    ready: bool
    queued: int = Field(description="decoded images in the queue")
    admitted_images: int = Field(description="images in progress")
    max_images: int = Field(description="limit on admitted_images")
    latency_ms: LatencyQuantiles
    calibration_watch: WatchStatus | None = Field(description="None before the first image of this version")


class StatusResponse(Schema):
    """The load of the server."""

    models: list[ModelStatus]


class Feedback(Schema):
    """A client's decision on one of its verdicts."""

    request_id: str = Field(min_length=1, max_length=64, description="X-Request-ID of the response")
    index: int = Field(0, ge=0, lt=2**31, description="place of the image in the request")
    verdict: Literal["false_alarm", "correct_flag", "missed", "correct_pass"] = Field(
        description="the first two of a flagged image, the others of any other image"
    )
    label: str | None = Field(None, max_length=200, description="the correct class, or a comment")


class Live(Schema):
    """Whether the process works; if not, restart it."""

    live: bool
    ready: bool


class Ready(Schema):
    """Whether to send requests to this server."""

    live: bool
    ready: bool
