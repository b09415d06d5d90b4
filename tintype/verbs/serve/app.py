"""The application: addresses, what each takes and answers, and their OpenAPI description."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import cache, partial
from importlib import resources
from types import ModuleType
from typing import Any, cast

import jinja2
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from tintype.errors import UserError
from tintype.pages.sandbox import SANDBOX, with_way_back, without_dead_links
from tintype.plugins import find_part, has_part, names
from tintype.tasks.contract.problems import KINDS, Problem, of_status
from tintype.tasks.contract.routes import Application, RoutesPart, invalid, problems
from tintype.tasks.contract.serve import Served
from tintype.verbs.serve.gate import COOKIE, Gate
from tintype.verbs.serve.measures import MEDIA_TYPE
from tintype.verbs.serve.service import Service, Settings
from tintype.version import __version__

FILES = {
    "/static/icon.svg": ("icon.svg", "image/svg+xml"),
    "/favicon.ico": ("icon.svg", "image/svg+xml"),
}


def make_app(models: Sequence[Served], settings: Settings | None = None) -> Gate:
    """Return the ASGI application that serves `models`."""
    service = Service(models, settings or Settings())
    app = FastAPI(
        title="tintype",
        version=__version__,
        summary="Image models over HTTP: classify, generate, upscale.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=partial(_lifespan, service),
    )
    _answer_errors(app)
    direct: dict[str, Application] = {}
    examples: dict[str, Sequence[str]] = {}
    modules = _routes_of_tasks()
    for module in modules:
        part = cast(RoutesPart, module)
        direct |= part.add(app, service)
        examples |= part.EXAMPLES
    _add_looks(app, service)
    gate = Gate(app, service, frozenset(getattr(route, "path", "") for route in app.routes), direct)
    _add_pages(app, gate, examples, modules)

    return gate


def _routes_of_tasks() -> list[ModuleType]:
    """Return the addresses of every task that has some, whether or not a model of it is served."""
    tasks = [task for task in names("tasks") if has_part(task, "routes")]
    return [find_part(task, "routes", "be served") for task in tasks]


@asynccontextmanager
async def _lifespan(service: Service, _: FastAPI) -> AsyncIterator[None]:
    service.start()
    try:
        yield
    finally:
        service.stop()


def _answer_errors(app: FastAPI) -> None:
    """Let every error be answered by problem details."""

    @app.exception_handler(Problem)
    async def _(_: Request, problem: Problem) -> Response:
        return problem.response()

    @app.exception_handler(UserError)
    async def _(_: Request, error: UserError) -> Response:
        return Problem("invalid", str(error)).response()

    @app.exception_handler(HTTPException)
    async def _(request: Request, error: HTTPException) -> Response:
        said = {
            404: f"there is nothing at {request.url.path}.",
            405: f"{request.method} is not for this address.",
        }
        return of_status(
            error.status_code, said.get(error.status_code, str(error.detail)), error.headers
        ).response()

    @app.exception_handler(RequestValidationError)
    async def _(_: Request, error: RequestValidationError) -> Response:
        return invalid([{**first, "loc": first["loc"][1:]} for first in error.errors()]).response()

    @app.exception_handler(Exception)
    async def _(_: Request, __: Exception) -> Response:
        return Problem(
            "internal", "something unexpected happened; the log of the service says more."
        ).response()


# ---- what there is, and how it is ----------------------------------------------------------------


def _add_looks(app: FastAPI, service: Service) -> None:
    @app.get(
        "/v1/models",
        summary="List the models with their classes and figures",
        responses=problems("unknown"),
    )
    async def models() -> dict[str, Any]:
        settings = service.settings
        limits = {
            "max_upload_mb": settings.max_upload_mb,
            "max_pixels": settings.max_pixels,
            "queue": settings.queue,
        }
        return {"models": [model.describe() for model in service.models.values()], "limits": limits}

    @app.get("/healthz", summary="Whether the process lives", responses=problems())
    async def healthz() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/readyz", summary="Whether requests are taken", responses=problems("stopping"))
    async def readyz() -> dict[str, str]:
        if service.draining or not service.compute.alive:
            raise Problem("stopping", "the service takes no more requests.")
        return {"status": "ready"}

    @app.get(
        "/metrics",
        summary="Figures for Prometheus",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **problems()},
    )
    async def metrics() -> Response:
        return Response(service.measures.text(), media_type=MEDIA_TYPE)

    @app.get(
        "/reports/{name}",
        summary="The report of a model, a page",
        response_class=Response,
        responses={
            200: {"content": {"text/html": {"schema": {"type": "string"}}}},
            **problems("unknown"),
        },
    )
    async def report(name: str) -> Response:
        model = service.models.get(name)
        if model is None or model.report is None:
            raise Problem(
                "unknown", f"there is no report of '{name}'. `tintype report RUN` makes one."
            )
        headers = {"Content-Security-Policy": SANDBOX, "Cache-Control": "no-cache"}
        page = await service.in_pool(model.report.read_bytes)
        page = with_way_back(without_dead_links(page), [("/", "All models")])
        return Response(page, headers=headers, media_type="text/html")


def _add_pages(
    app: FastAPI, gate: Gate, examples: Mapping[str, Sequence[str]], modules: Sequence[ModuleType]
) -> None:
    """Add the page, its documentation and their files.

    Every one is named here, and no folder is opened to the web.
    """
    folder = resources.files("tintype.verbs.serve") / "page"

    def add(address: str, content: bytes | Callable[[], bytes], media_type: str) -> None:
        async def page() -> Response:
            made = content if isinstance(content, bytes) else content()
            return Response(made, headers={"Cache-Control": "no-cache"}, media_type=media_type)

        app.add_api_route(address, page, include_in_schema=False)

    for address, (file, media_type) in FILES.items():
        add(address, (folder / file).read_bytes(), media_type)
    index = (folder / "index.html").read_bytes()
    add("/", index.replace(b"<!-- views -->", b"\n".join(_views(modules, "html"))), "text/html")
    style = (folder / "style.css").read_bytes()
    add("/static/style.css", b"\n".join([style, *_views(modules, "css")]), "text/css")
    scripts = [
        (folder / "page.js").read_bytes(),
        *_views(modules, "js"),
        (folder / "start.js").read_bytes(),
    ]
    add("/static/page.js", b"\n".join(scripts), "text/javascript")

    @cache
    def docs() -> bytes:
        """Return the page of the documentation, made when it is first asked for."""
        template = jinja2.Environment(autoescape=True, trim_blocks=True).from_string(
            (folder / "docs.html").read_text("utf-8")
        )
        token = gate.service.settings.token is not None
        page = template.render(api=app.openapi(), problems=KINDS, examples=examples, token=token)
        return page.encode()

    add("/docs", docs, "text/html")

    @app.get("/samples/{name}/{number}", include_in_schema=False)
    async def sample(name: str, number: int) -> Response:
        """Return a test image for the page to try."""
        model = gate.service.models.get(name)
        if model is None:
            raise Problem("unknown", f"there is no model '{name}'.")
        try:
            content = await gate.service.in_pool(model.sample, number)
        except (UserError, OSError, ValueError) as error:
            raise Problem("unknown", str(error)) from None
        return Response(content, headers={"Cache-Control": "no-cache"}, media_type="image/png")

    @app.post("/v1/session", include_in_schema=False)
    async def session(request: Request) -> Response:
        """Keep the token that a person typed into the page as a cookie that no script can read."""
        shown = (await request.body()).strip()
        if not gate.is_token(shown):
            raise Problem("token", "this is not the token that the service was started with.")

        answer = Response(status_code=204)
        secure = request.url.scheme == "https"
        answer.set_cookie(
            COOKIE,
            base64.urlsafe_b64encode(shown).decode(),
            httponly=True,
            samesite="strict",
            secure=secure,
        )

        return answer


def _views(modules: Sequence[ModuleType], ending: str) -> list[bytes]:
    """Return the files by which the tasks show their models, `page/view.html` and so on."""
    files = [
        resources.files(str(module.__package__)) / "page" / f"view.{ending}" for module in modules
    ]
    return [file.read_bytes() for file in files if file.is_file()]
