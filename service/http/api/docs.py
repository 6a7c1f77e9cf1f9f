"""GET /docs: the API's description in Swagger UI, without requests to other servers.

The files of Swagger UI are those of the package fastapi-offline. The page reads /openapi.json, which needs a key if the
server has keys; the page then shows a form for it.
"""

from importlib.resources import files

from fastapi import APIRouter, HTTPException, Request, Response

from service.http.api.static_files import PAGE_POLICY, static_file

__all__ = ["OPEN_DOCS_PATHS", "docs_router"]

_OWN = {"docs.css": "text/css", "docs.js": "text/javascript"}
_SWAGGER = {"swagger-ui.css": "text/css", "swagger-ui-bundle.js": "text/javascript"}

OPEN_DOCS_PATHS = frozenset({"/docs", *(f"/docs/{name}" for name in (*_OWN, *_SWAGGER))})

# Swagger UI sets style attributes and stores its icons in data URLs.
_POLICY = PAGE_POLICY.replace("style-src 'self'", "style-src 'self' 'unsafe-inline'").replace("blob:", "blob: data:")


def docs_router() -> APIRouter:
    """A router with GET /docs and the files of the page."""
    own, swagger = files("service").joinpath("web"), files("fastapi_offline").joinpath("static")
    page = static_file("text/html", own.joinpath("docs.html").read_bytes(), _POLICY)
    assets = {
        name: static_file(kind, folder.joinpath(name).read_bytes(), _POLICY)
        for folder, kinds in ((own, _OWN), (swagger, _SWAGGER))
        for name, kind in kinds.items()
    }
    router = APIRouter(include_in_schema=False)

    @router.api_route("/docs", methods=["GET", "HEAD"])
    async def docs(request: Request) -> Response:
        return page.respond(request)

    @router.api_route("/docs/{name}", methods=["GET", "HEAD"])
    async def asset(request: Request, name: str) -> Response:
        if name not in assets:
            raise HTTPException(404)
        return assets[name].respond(request)

    return router
