"""GET /: the web page, and the operator's example images.

All files are read when the router is created, and looked up by name or number: no file path contains text from a
client. The page and its assets contain no data and need no API key (`OPEN_PAGE_PATHS`); the examples do.
"""

from pathlib import Path

from fastapi import APIRouter, HTTPException, Request, Response

from models.errors import InputError
from models.files import readable
from service.http.api.static_files import StaticFile, add_pages, static_file

__all__ = ["OPEN_PAGE_PATHS", "page_router"]

_ASSETS = (
    "api.js", "card.js", "chart.js", "elements.js", "icon.svg", "key-form.js", "page.css", "page.js", "status.js",
    "watch.js",
)  # fmt: skip

OPEN_PAGE_PATHS = frozenset({"/", *(f"/assets/{name}" for name in _ASSETS)})

_EXAMPLE_TYPES = {".jpeg": "image/jpeg", ".jpg": "image/jpeg", ".png": "image/png", ".webp": "image/webp"}
_MAX_EXAMPLES = 100
_MAX_EXAMPLE_BYTES = 32 * 1024 * 1024  # in total, because they stay in memory


def page_router(*, examples: Path | None = None) -> APIRouter:
    """A router with GET /, its assets under /assets, and the images of the folder `examples` under /examples.

    Raises:
        InputError: `examples` is not a folder, has no images, too many or too large ones, or links to other folders.
    """
    named = _read_examples(examples) if examples is not None else {}
    pictures = list(named.values())
    router = APIRouter(include_in_schema=False)
    add_pages(router, {"/": "index.html"}, _ASSETS)

    @router.get("/examples")
    async def example_names() -> list[str]:
        return list(named)

    @router.get("/examples/{index}")
    async def example(request: Request, index: int) -> Response:
        if not 0 <= index < len(pictures):
            raise HTTPException(404)
        return pictures[index].respond(request)

    return router


def _read_examples(folder: Path) -> dict[str, StaticFile]:
    """The images of `folder` by file name, sorted by name."""
    try:
        inside = folder.resolve(strict=True)
        paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in _EXAMPLE_TYPES and not p.name.startswith("."))
    except OSError as exc:
        raise InputError(f"cannot read the folder of example images {folder}: {exc}") from exc
    if not 1 <= len(paths) <= _MAX_EXAMPLES:
        raise InputError(
            f"expected 1 to {_MAX_EXAMPLES} example images ({', '.join(_EXAMPLE_TYPES)}) in {folder}, "
            f"got {len(paths)}; add or remove images"
        )
    examples: dict[str, StaticFile] = {}
    size = 0
    for path in paths:
        content = _read_example(path, inside)
        size += len(content)
        if size > _MAX_EXAMPLE_BYTES:
            raise InputError(
                f"expected example images of at most {_MAX_EXAMPLE_BYTES} bytes in total in {folder}, got more; "
                "remove images, or make them smaller"
            )
        examples[readable(path.name)] = static_file(_EXAMPLE_TYPES[path.suffix.lower()], content)
    return examples


def _read_example(path: Path, inside: Path) -> bytes:
    try:
        real = path.resolve(strict=True)
        if not real.is_relative_to(inside):
            raise InputError(f"the example image {path} is a link to {real}, outside {inside}; copy the file")
        if not real.is_file() or real.stat().st_size > _MAX_EXAMPLE_BYTES:
            raise InputError(
                f"expected files of at most {_MAX_EXAMPLE_BYTES} bytes as example images, got {path}; remove it"
            )
        return real.read_bytes()
    except OSError as exc:
        raise InputError(f"cannot read the example image {path}: {exc}; remove it or its link") from exc
