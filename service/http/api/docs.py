"""GET /docs: the API's description in a browser, by Swagger UI, with nothing fetched from elsewhere.

Swagger UI's files come with the package fastapi-offline, of which nothing else is used. The page reads /openapi.json,
which needs a key where the server has keys; the page asks for it.
"""

from importlib.resources import files

from fastapi import APIRouter, HTTPException, Request, Response

from service.http.api.static_files import PAGE_POLICY, static_file

__all__ = ["OPEN_DOCS_PATHS", "docs_router"]

_OURS = {"docs.css": "text/css", "docs.js": "text/javascript"}
_SWAGGER = {"swagger-ui.css": "text/css", "swagger-ui-bundle.js": "text/javascript"}

OPEN_DOCS_PATHS = frozenset({"/docs", *(f"/docs/{name}" for name in (*_OURS, *_SWAGGER))})

# Swagger UI sets style attributes and has its icons in data URLs.
_POLICY = PAGE_POLICY.replace("style-src 'self'", "style-src 'self' 'unsafe-inline'").replace("blob:", "blob: data:")


def docs_router() -> APIRouter:
    """A router with GET /docs and, under it, what that page needs."""
    ours, swagger = files("service").joinpath("web"), files("fastapi_offline").joinpath("static")
    page = static_file("text/html", ours.joinpath("docs.html").read_bytes(), _POLICY)
    assets = {
        name: static_file(kind, folder.joinpath(name).read_bytes(), _POLICY)
        for folder, kinds in ((ours, _OURS), (swagger, _SWAGGER))
        for name, kind in kinds.items()
    }
    router = APIRouter(include_in_schema=False)

    @router.api_route("/docs", methods=["GET", "HEAD"])
    async def docs(request: Request) -> Response:
        return page.answer(request)

    @router.api_route("/docs/{name}", methods=["GET", "HEAD"])
    async def asset(request: Request, name: str) -> Response:
        if name not in assets:
            raise HTTPException(404)
        return assets[name].answer(request)

    return router
