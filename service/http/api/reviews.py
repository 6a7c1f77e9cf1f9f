"""Routes of the admin port for reviewers: stored verdicts, their images and paths, and decisions on them."""

import asyncio
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from models.errors import InputError
from service.http.api.feedback import read_body
from service.http.errors import HttpError
from service.http.inference.repository import ModelRepository
from service.http.observability.recorder import VerdictRecorder
from service.http.schemas.v1 import Schema
from service.monitoring.reviews.store import Decision, Selection

__all__ = ["REVIEWS_PATH", "reviews_router"]

REVIEWS_PATH = "/admin/reviews"

# The browser shows the image and executes nothing in it.
_IMAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "private, no-store",
}


class Review(Schema):
    """A reviewer's decision."""

    decision: Decision
    label: str | None = Field(None, max_length=200)


def reviews_router(repository: ModelRepository, recorder: VerdictRecorder) -> APIRouter:
    """A router with the paths under `REVIEWS_PATH`."""
    router = APIRouter()
    store = recorder.store

    @router.get(REVIEWS_PATH, summary="Stored verdicts, newest first, and the rates that follow from reviews")
    async def listed(
        of: Literal["flagged", "sample"] = "flagged",
        unreviewed: bool = False,
        model: str | None = None,
        class_name: Annotated[str | None, Query(alias="class")] = None,
        key: str | None = None,
        session: str | None = None,
        before: Annotated[int | None, Query(ge=0, lt=2**63)] = None,
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
    ) -> Response:
        selection = Selection(
            sample=of == "sample", unreviewed=unreviewed, model=model, class_name=class_name, key=key, session=session,
            before=before, limit=limit,
        )  # fmt: skip
        rows = await asyncio.to_thread(_select, selection)
        return _json({"verdicts": rows, "rates": await asyncio.to_thread(recorder.rates)})

    @router.post(f"{REVIEWS_PATH}/{{verdict}}", summary="Set the reviewer's decision; a repetition changes nothing")
    async def decide(verdict: int, request: Request) -> Response:
        review = await read_body(request, Review)
        await _stored(verdict)
        try:
            await asyncio.to_thread(store.review, verdict, review.decision, source="reviewer", label=review.label)
        except InputError as exc:
            raise HttpError(422, "invalid_request", str(exc)) from exc
        recorder.reviewed()
        return _json(review.model_dump())

    @router.get(f"{REVIEWS_PATH}/{{verdict}}/image", summary="The image that the network took, as PNG")
    async def image(verdict: int) -> Response:
        row = await _stored(verdict)
        content = None
        if recorder.images is not None and row["image"] is not None:
            content = await asyncio.to_thread(recorder.images.read, row["image"])
        if content is None:
            raise HttpError(404, "image_not_kept", "the image is not kept; start the server with --keep-flagged DIR")
        return Response(content, media_type="image/png", headers=_IMAGE_HEADERS)

    @router.get(f"{REVIEWS_PATH}/{{verdict}}/path", summary="The path of the image through the current version")
    async def path(verdict: int) -> Response:
        row = await _stored(verdict)
        model = repository.find(row["model"])
        pixels = None
        if recorder.images is not None and row["image"] is not None:
            pixels = await asyncio.to_thread(recorder.images.pixels, row["image"])
        if model is None or pixels is None or pixels.shape[1:] != model.inference.image_size:
            raise HttpError(404, "image_not_kept", "the image is not kept, or no served model takes images of its size")
        with model.admit(0):
            [outcome] = await model.inference.score_pixels([pixels], path=True)
        if isinstance(outcome, Exception):
            raise outcome
        return _json({"version": model.version, **outcome.to_json()})

    async def _stored(verdict: int) -> dict[str, Any]:
        row = await asyncio.to_thread(store.get, verdict) if 0 < verdict < 2**63 else None
        if row is None:
            raise HttpError(404, "verdict_not_found", "no verdict of this number is stored")
        return row

    def _select(selection: Selection) -> list[dict[str, Any]]:
        recorder.flush()
        rows = store.select(selection)
        for row in rows:
            row["image"] = row["image"] is not None  # a browser does not need names of files
        return rows

    return router


def _json(fields: dict[str, Any]) -> Response:
    return Response(orjson.dumps(fields), media_type="application/json", headers={"Cache-Control": "no-store"})
