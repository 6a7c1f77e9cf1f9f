"""Requests and responses of the Open Inference Protocol v2."""

from typing import Any, Literal

from pydantic import BaseModel, Field

from service.http.schemas.v1 import Schema

__all__ = [
    "OipError",
    "OipInferRequest",
    "OipInferResponse",
    "OipModel",
    "OipModelReady",
    "OipServer",
]


class OipError(Schema):
    """Every response under /v2 whose status is not 2xx."""

    error: str


class OipServer(Schema):
    """Name, version and extensions of the server."""

    name: str
    version: str
    extensions: list[str]


class OipTensorDescription(Schema):
    """Name, type and shape of an input or output; -1 is the number of images."""

    name: str
    datatype: str
    shape: list[int]


class OipModel(Schema):
    """Inputs and outputs of a model."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[OipTensorDescription]
    outputs: list[OipTensorDescription]


class OipModelReady(Schema):
    """Whether the model scores images."""

    name: str
    ready: bool


class OipInput(BaseModel):
    """One tensor: IMAGE as BYTES [-1], or PIXELS as UINT8 [-1, 3, H, W]."""

    name: Literal["IMAGE", "PIXELS"]
    datatype: Literal["BYTES", "UINT8"]
    shape: list[int]
    parameters: dict[str, Any] = Field(default_factory=dict, description="binary_data_size, if the data is binary")
    data: list[Any] | None = Field(None, description="image files in base64, or numbers, flat or nested")


class OipOutputRequest(BaseModel):
    """One requested output."""

    name: Literal["label", "probabilities", "score", "p_value", "flagged"]
    parameters: dict[str, Any] = Field(default_factory=dict, description="binary_data: true for a binary tensor")


class OipInferRequest(BaseModel):
    """A batch of images."""

    id: str | None = None
    inputs: list[OipInput] = Field(min_length=1, max_length=1)
    outputs: list[OipOutputRequest] | None = None
    parameters: dict[str, Any] = Field(default_factory=dict, description="binary_data_output: true for all outputs")


class OipOutput(Schema):
    """One output."""

    name: str
    datatype: str
    shape: list[int]
    data: list[int | float | bool] | None = None
    parameters: dict[str, int] | None = None


class OipInferResponse(Schema):
    """One row per image in each output."""

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[OipOutput]
