"""The shapes of requests and answers under /v1, for validation and for the OpenAPI description."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "ErrorResponse",
    "ImageFailure",
    "ImageVerdict",
    "Live",
    "ModelsResponse",
    "OipError",
    "OipInferRequest",
    "OipInferResponse",
    "OipModel",
    "OipModelReady",
    "OipServer",
    "PredictRequest",
    "PredictResponse",
    "Ready",
    "StatusResponse",
]


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
    components: dict[str, float] = Field(description="parts of the score, by name; larger = less natural")
    votes: dict[str, float] = Field(deprecated=True, description="the former name of `components`")
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
    model: str = Field(description="name of the model that judged")
    threshold: float = Field(description="an image is flagged when its score is at least this")
    fpr: float = Field(description="share of natural images that the threshold flags")
    results: list[ImageVerdict | ImageFailure]


class RequestErrorDetail(ErrorDetail):
    """Why a request was refused, with the id to find it by in the server's log."""

    request_id: str


class ErrorResponse(_Schema):
    """Every answer that is not 2xx."""

    error: RequestErrorDetail


class ModelDescription(_Schema):
    """One model that is served."""

    name: str
    version: str = Field(description="first digits of the artifact's digest")
    artifact: str = Field(description="digest of its artifact")
    network: str
    detector: str
    classes: list[str]
    height: int = Field(description="pixels of the images that the network takes")
    width: int
    threshold: float
    fpr: float
    ready: bool


class ModelsResponse(_Schema):
    """The models that are served; requests that name none get the first."""

    models: list[ModelDescription]


class LatencyQuantiles(_Schema):
    """Milliseconds that the last minute's answered requests took."""

    p50: float | None
    p99: float | None
    count: int


class ModelStatus(_Schema):
    """How busy one model is."""

    name: str
    version: str
    network: str
    classes: int
    height: int
    width: int
    ready: bool
    queued: int = Field(description="decoded images that wait for the network")
    admitted_images: int = Field(description="images accepted and not yet answered")
    max_images: int = Field(description="where images begin to be refused")
    latency_ms: LatencyQuantiles


class StatusResponse(_Schema):
    """How busy the server is."""

    models: list[ModelStatus]


class Live(_Schema):
    """Whether the process works; if not, restart it."""

    live: bool
    ready: bool


class Ready(_Schema):
    """Whether to send requests here."""

    live: bool
    ready: bool


class OipError(_Schema):
    """Every answer under /v2 that is not 2xx."""

    error: str


class OipServer(_Schema):
    """What the server is."""

    name: str
    version: str
    extensions: list[str]


class OipTensorDescription(_Schema):
    """Name, type and shape of an input or output; -1 stands for the number of images."""

    name: str
    datatype: str
    shape: list[int]


class OipModel(_Schema):
    """Inputs and outputs of a model."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[OipTensorDescription]
    outputs: list[OipTensorDescription]


class OipModelReady(_Schema):
    """Whether the model judges."""

    name: str
    ready: bool


class OipInput(BaseModel):
    """One tensor: IMAGE as BYTES [-1], or PIXELS as UINT8 [-1, 3, H, W]."""

    name: Literal["IMAGE", "PIXELS"]
    datatype: Literal["BYTES", "UINT8"]
    shape: list[int]
    parameters: dict[str, Any] = Field(default_factory=dict, description="binary_data_size, where the data is binary")
    data: list[Any] | None = Field(None, description="image files in base64, or numbers, flat or nested")


class OipOutputRequest(BaseModel):
    """One output wanted."""

    name: Literal["label", "probabilities", "score", "p_value", "flagged"]
    parameters: dict[str, Any] = Field(default_factory=dict, description="binary_data: true for a binary tensor")


class OipInferRequest(BaseModel):
    """A batch of images."""

    id: str | None = None
    inputs: list[OipInput] = Field(min_length=1, max_length=1)
    outputs: list[OipOutputRequest] | None = None
    parameters: dict[str, Any] = Field(default_factory=dict, description="binary_data_output: true for all outputs")


class OipOutput(_Schema):
    """One output."""

    name: str
    datatype: str
    shape: list[int]
    data: list[int | float | bool] | None = None
    parameters: dict[str, int] | None = None


class OipInferResponse(_Schema):
    """Verdicts: one row per image in each output."""

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[OipOutput]
