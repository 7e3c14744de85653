"""The page at / and the documentation at /docs: static files, none of them from another host."""

from importlib import resources

from fastapi import FastAPI, Request, Response

_FILES = {
    "/": ("pipelines.web", "index.html", "text/html; charset=utf-8"),
    "/app.js": ("pipelines.web", "app.js", "text/javascript; charset=utf-8"),
    "/style.css": ("pipelines.web", "style.css", "text/css; charset=utf-8"),
    "/icon.svg": ("pipelines.web", "icon.svg", "image/svg+xml"),
    "/docs": ("pipelines.web", "docs.html", "text/html; charset=utf-8"),
    "/docs.js": ("pipelines.web", "docs.js", "text/javascript; charset=utf-8"),
    "/swagger-ui.js": ("fastapi_swagger.resources", "swagger-ui-bundle.js", "text/javascript; charset=utf-8"),
    "/swagger-ui.css": ("fastapi_swagger.resources", "swagger-ui.css", "text/css; charset=utf-8"),
}


def add_pages(app: FastAPI) -> None:
    for path, (package, name, kind) in _FILES.items():
        content = resources.files(package).joinpath(name).read_bytes()

        def page(request: Request, content: bytes = content, kind: str = kind) -> Response:  # noqa: ARG001
            return Response(content, media_type=kind, headers={"Cache-Control": "no-cache"})

        app.add_route(path, page, include_in_schema=False)
