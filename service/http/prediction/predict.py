"""POST /v1/predict and /v1/models/NAME/predict: image files in, one verdict per image out."""

from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from detector.pipeline import Verdict
from service.http.errors import HttpError
from service.http.inference.files import ImageFile
from service.http.inference.model import ServedModel
from service.http.inference.outcomes import Outcome, ScoredImages
from service.http.prediction.request import PredictionRequest, error_message, image_error
from service.http.prediction.uploads import UnparsedFiles, read_files

__all__ = ["predict"]

_TRUE, _FALSE = frozenset({"1", "true", "t", "yes", "y", "on"}), frozenset({"0", "false", "f", "no", "n", "off"})


async def predict(request: PredictionRequest) -> Response:
    """The response, in the form of `service.http.schemas.v1.PredictResponse`.

    Raises:
        HttpError: the request is refused, or its only image has no verdict.
    """
    path = _wants_path(request.http)
    body = await read_files(request.http, max_images=request.settings.max_images_per_request)

    async def score() -> tuple[list[ImageFile], ScoredImages]:
        files = await request.parse(body.parse, body.body) if isinstance(body, UnparsedFiles) else body
        request.reserve(len(files))
        return files, await request.model.inference.score(files, path=path)

    files, scored = await request.run(score())
    request.count(scored)
    outcomes = scored.outcomes
    if len(outcomes) == 1 and isinstance(outcomes[0], Exception):
        raise image_error(outcomes[0]) from outcomes[0]
    results = [_result(i, file, outcome, path) for i, (file, outcome) in enumerate(zip(files, outcomes, strict=True))]
    # Not validated at run time; the tests validate it.
    return Response(orjson.dumps({**_head(request.model), "results": results}), media_type="application/json")


def _wants_path(request: Request) -> bool:
    """The value of ``?path=``, in the notations that FastAPI accepts for a bool."""
    if not request.scope["query_string"]:
        return False
    value = request.query_params.get("path", "false").lower()
    if value not in _TRUE | _FALSE:
        raise HttpError(422, "invalid_request", "expected path as true or false, got another value")
    return value in _TRUE


def _head(model: ServedModel) -> dict[str, Any]:
    calibration = model.artifact.pipeline.calibration
    return {
        "artifact": model.artifact.digest,
        "model": model.name,
        "threshold": calibration.threshold,
        "fpr": calibration.fpr,
    }


def _result(index: int, file: ImageFile, outcome: Outcome, path: bool) -> dict[str, Any]:
    head: dict[str, Any] = {"index": index, "name": file.name}
    if not isinstance(outcome, Verdict):
        code, message = error_message(outcome)
        return {**head, "error": {"code": code, "message": message}}
    fields = {**head, **outcome.to_json()}
    if not path:  # another request of the batch may want the path
        fields.pop("path", None)
    return fields
