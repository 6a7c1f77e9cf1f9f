"""POST /v2/models/NAME[/versions/VERSION]/infer: predictions by the Open Inference Protocol v2.

One input per request: IMAGE, BYTES ``[-1]``, image files; or PIXELS, UINT8 ``[-1, 3, H, W]``, preprocessed pixels. The
outputs are in `service.http.prediction.outputs`. The protocol has no error for a single image: if one image has no
verdict, the whole request is refused.
"""

from starlette.responses import Response

from detector.pipeline import Verdict
from service.http.inference.outcomes import Outcome, ScoredImages
from service.http.prediction.infer_request import HEADER_LENGTH, InferRequest, parse_request
from service.http.prediction.infer_response import encode_response
from service.http.prediction.outputs import output_tensors
from service.http.prediction.request import PredictionRequest, image_error

__all__ = ["infer"]


async def infer(request: PredictionRequest) -> Response:
    """The response, in the form of `service.http.schemas.oip.OipInferResponse`, with binary tensors if requested.

    Raises:
        HttpError: the request is refused, or an image has no verdict.
    """
    body = await request.http.body()

    async def score() -> tuple[InferRequest, ScoredImages]:
        parsed = await _parse(request, body)
        request.reserve(parsed.count)
        return parsed, await _score(request, parsed)

    parsed, scored = await request.run(score())
    request.count(scored)
    tensors = output_tensors(_verdicts(scored.outcomes))
    content, json_length = encode_response(parsed, tensors, request.model.name, request.model.version)
    if json_length is None:
        return Response(content, media_type="application/json")
    return Response(content, media_type="application/octet-stream", headers={HEADER_LENGTH: str(json_length)})


async def _parse(request: PredictionRequest, body: bytes) -> InferRequest:
    header_length = request.http.headers.get(HEADER_LENGTH)

    def parse(content: bytes) -> InferRequest:
        return parse_request(
            content,
            header_length,
            image_size=request.model.inference.image_size,
            max_images=request.settings.max_images_per_request,
        )

    # Only the head of a body with binary tensors is parsed, and it is short.
    return await request.parse(parse, body, long=None if header_length is None else False)


async def _score(request: PredictionRequest, parsed: InferRequest) -> ScoredImages:
    if parsed.pixels is not None:
        pixels = list(parsed.pixels)
        return ScoredImages([*await request.model.inference.score_pixels(pixels)], [*pixels])
    return await request.model.inference.score(parsed.files, path=False)


def _verdicts(outcomes: list[Outcome]) -> list[Verdict]:
    verdicts = []
    for index, outcome in enumerate(outcomes):
        if not isinstance(outcome, Verdict):
            raise image_error(outcome, f"image {index}: " if len(outcomes) > 1 else "") from outcome
        verdicts.append(outcome)
    return verdicts
