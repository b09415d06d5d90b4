"""The application: addresses, what each takes and answers, and the OpenAPI description of all that."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from importlib import resources
from typing import Annotated, Any, Literal

import jinja2
import numpy as np
from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.responses import Response

from tintype.errors import UserError
from tintype.pages.sandbox import SANDBOX, with_way_back, without_dead_links
from tintype.tasks.generate import sampling
from tintype.verbs.serve.gate import COOKIE, Application, Gate, Receive, Scope, Send
from tintype.verbs.serve.measures import MEDIA_TYPE
from tintype.verbs.serve.problems import KINDS, Problem, json_bytes, of_status
from tintype.verbs.serve.problems import MEDIA_TYPE as PROBLEM
from tintype.verbs.serve.served import (
    Classification,
    ImageMaker,
    PhotoClassifier,
    PhotoEnlarger,
    Served,
    png_bytes,
    png_text,
)
from tintype.verbs.serve.service import Service, Settings
from tintype.version import __version__

MOST_GENERATED = 64  # images in one answer
MOST_FIELDS = 16  # of a form, which should have none
FARTHEST = 999_999  # index of an image of a seed
FILES = {
    "/": ("index.html", "text/html"),
    "/static/style.css": ("style.css", "text/css"),
    "/static/page.js": ("page.js", "text/javascript"),
    "/static/icon.svg": ("icon.svg", "image/svg+xml"),
    "/favicon.ico": ("icon.svg", "image/svg+xml"),
}
EXAMPLES = {
    "/v1/predict": [
        "curl --data-binary @photo.jpg -H 'content-type: image/jpeg' 'http://HOST/v1/predict?top=3'",
        "curl -F files=@one.jpg -F files=@two.png 'http://HOST/v1/predict?model=NAME'",
    ],
    "/v1/generate": [
        "curl -H 'content-type: application/json' http://HOST/v1/generate -o sheet.png \\\n"
        """     -d '{"count": 64, "seed": 7, "format": "png"}'"""
    ],
    "/v1/upscale": [
        "curl --data-binary @photo.jpg -H 'content-type: image/jpeg' http://HOST/v1/upscale -o large.png"
    ],
}
IMAGE_TYPES = (
    "image/jpeg",
    "image/png",
    "image/webp",
    "image/gif",
    "image/tiff",
    "image/bmp",
    "image/x-portable-pixmap",
)


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
    direct = {"/v1/predict": _add_predict(app, service)}
    _add_generate(app, service)
    _add_upscale(app, service)
    _add_looks(app, service)
    gate = Gate(app, service, frozenset(getattr(route, "path", "") for route in app.routes), direct)
    _add_pages(app, gate)

    return gate


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
        return _invalid([{**first, "loc": first["loc"][1:]} for first in error.errors()]).response()

    @app.exception_handler(Exception)
    async def _(_: Request, __: Exception) -> Response:
        return Problem(
            "internal", "something unexpected happened; the log of the service says more."
        ).response()


def _invalid(errors: Sequence[Any]) -> Problem:
    """Return the problem for what pydantic found."""
    where = ".".join(str(part) for part in errors[0]["loc"]) or "the body"
    kind = "malformed" if errors[0]["type"] == "json_invalid" else "invalid"
    return Problem(kind, f"{where}: {errors[0]['msg'].lower()}.")


def _problems(*kinds: str) -> dict[int | str, dict[str, Any]]:
    """Return how OpenAPI describes the errors that an address may answer."""
    every = {
        **{kind: KINDS[kind] for kind in kinds},
        **{kind: KINDS[kind] for kind in ("slow", "token", "host", "timeout", "busy")},
    }
    every["internal"] = KINDS["internal"]

    described: dict[int | str, dict[str, Any]] = {}
    for kind in every.values():
        text = described.get(kind.status, {}).get("description", "")
        described[kind.status] = {
            "description": f"{text} {kind.title}.".strip(),
            "content": {PROBLEM: {"schema": {"$ref": "#/components/schemas/ProblemDetails"}}},
        }

    return described


class ProblemDetails(BaseModel):
    """An error, as RFC 9457 has it."""

    type: str
    title: str
    status: int
    detail: str


# ---- uploads ----------------------------------------------------------------------------------------------------------


def _body(*, several: bool) -> dict[str, Any]:
    """Return how OpenAPI describes an upload."""
    file = {"type": "string", "format": "binary"}
    property = (
        {"files": {"type": "array", "items": file, "minItems": 1}} if several else {"file": file}
    )
    form = {
        "type": "object",
        "properties": property,
        "required": list(property),
        "additionalProperties": False,
    }
    content = {"multipart/form-data": {"schema": form}}
    content |= {kind: {"schema": file} for kind in (*IMAGE_TYPES, "application/octet-stream")}

    return {"requestBody": {"required": True, "content": content}}


async def _uploads(request: Request, most: int) -> list[tuple[str, bytes]]:
    """Return the files of a request, each with its name; one without a name where the body is the file.

    Raises:
        Problem: neither an image nor a form, too many files, or none.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        try:
            async with request.form(max_files=most, max_fields=MOST_FIELDS) as form:
                for name, value in form.multi_items():
                    if not isinstance(value, UploadFile):
                        raise Problem(
                            "invalid",
                            f"the form has a field '{name}'. Write into the address: ?{name}=VALUE",
                        )
                files = [file for _, file in form.multi_items() if isinstance(file, UploadFile)]
                if not files:
                    raise Problem(
                        "invalid", "the form has no file. Send one or more as file parts."
                    )
                return [(file.filename or "", await file.read()) for file in files]
        except MultiPartException as error:
            raise Problem("malformed", f"the form cannot be read: {error.message}") from None
        # an encoding that is unknown, or not kept to
        except (UnicodeError, LookupError, ValueError) as error:
            raise Problem("malformed", f"the form cannot be read: {error}.") from None

    if not kind.startswith("image/") and kind != "application/octet-stream":
        said = f"the content type is {kind!r}" if kind else "the request has no content type"
        raise Problem(
            "media-type", f"{said}. Send multipart/form-data, or the bytes of a file as image/* ."
        )

    return [("", await request.body())]


# ---- predict ----------------------------------------------------------------------------------------------------------


class Parameters(BaseModel):
    """What stands after the question mark; what is not known is an error."""

    model_config = ConfigDict(extra="forbid")
    model: str | None = Field(None, description="Name of the model, where several are served.")


class PredictParameters(Parameters):
    top: int = Field(5, ge=1, le=1000, description="Classes to tell of each photo.")
    heatmap: bool = Field(False, description="Also show where the model looked (Grad-CAM).")


class ClassProbability(BaseModel):
    """A class with its probability, calibrated on validation."""

    model_config = ConfigDict(populate_by_name=True)
    class_: str = Field(alias="class")
    probability: float


class PredictionItem(BaseModel):
    """What is on one photo; or, of several, why it could not be read."""

    file: str
    top: list[ClassProbability] | None = None
    unlike: str | None = Field(
        None,
        description="Why the photo is unlike the training images, where it is: its probabilities do not apply.",
    )
    heatmap: str | None = Field(
        None, description="A PNG as base64: the picture that the model saw, with a heat map."
    )
    problem: ProblemDetails | None = None


class Predictions(BaseModel):
    """The answer to an upload, in the order of its files."""

    model: str
    predictions: list[PredictionItem]


def _add_predict(app: FastAPI, service: Service) -> Application:
    """Add the address, and return what answers it without FastAPI, which would take a third of the
    event loop's time.
    """

    async def answer(request: Request, how: PredictParameters) -> Response:
        chosen = service.pick(PhotoClassifier, how.model)
        files = await _uploads(request, service.settings.queue)
        with service.admitted(len(files)):
            futures = [service.classify(chosen, content, how.heatmap) for _, content in files]
            answers = [await _outcome(future) for future in futures]

        failed = [answer for answer in answers if isinstance(answer, UserError)]
        if len(failed) == len(files):
            raise Problem("unreadable", str(failed[0]))

        service.measures.images(chosen.name, len(files) - len(failed))
        items = [
            _item(name, answer, how.top) for (name, _), answer in zip(files, answers, strict=True)
        ]
        return _json({"model": chosen.name, "predictions": items})

    @app.post(
        "/v1/predict",
        summary="Say what is on photos",
        description="Send one photo as the body, or several as parts of a form.",
        openapi_extra=_body(several=True),
        response_model=None,
        responses={
            200: {"model": Predictions},
            **_problems("malformed", "unknown", "too-large", "media-type", "unreadable"),
        },
    )
    async def predict(request: Request, how: Annotated[PredictParameters, Query()]) -> Response:
        return await answer(request, how)

    async def direct(scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            how = PredictParameters.model_validate(dict(request.query_params))
            response = await answer(request, how)
        except ValidationError as error:
            response = _invalid(error.errors()).response()
        except Problem as problem:
            response = problem.response()
        await response(scope, receive, send)

    return direct


async def _outcome(future: asyncio.Future[Classification]) -> Classification | UserError:
    try:
        return await future
    except UserError as error:
        return error


def _item(name: str, answer: Classification | UserError, top: int) -> dict[str, Any]:
    if isinstance(answer, UserError):
        return {"file": name, "problem": Problem("unreadable", str(answer)).describe()}
    heat = {} if answer.heat is None else {"heatmap": png_text(answer.heat)}
    unlike = {"unlike": answer.prediction.unlike} if answer.prediction.unlike else {}
    return {"file": name, "top": answer.top(top), **unlike, **heat}


def _json(content: Any) -> Response:
    """Return JSON; numbers in full, so that they are those of `run.predict`."""
    return Response(json_bytes(content), media_type="application/json")


# ---- generate and upscale ---------------------------------------------------------------------------------------------


class Wish(BaseModel):
    """Which images to make: image i follows from (seed, i) alone."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)
    model: str | None = Field(None, description="Name of the model, where several are served.")
    count: int = Field(16, ge=1, le=MOST_GENERATED, description="Images to make.")
    start: int = Field(0, ge=0, le=FARTHEST, description="Index of the first image.")
    seed: int = Field(0, ge=0, le=2**53 - 1, description="Another seed gives other images.")
    class_: str | None = Field(
        None, alias="class", description="What to show; by default the classes by turns."
    )
    truncation: float | None = Field(
        None, gt=0, le=10, description="Bound of the noise: lower is more typical."
    )
    format: Literal["json", "png"] = Field("json", description="png: one sheet instead.")


class MadeImage(BaseModel):
    """An image that was made."""

    model_config = ConfigDict(populate_by_name=True)
    index: int
    class_: str | None = Field(None, alias="class")
    png: str = Field(description="base64")


class MadeImages(BaseModel):
    """Images of a seed."""

    model: str
    seed: int
    images: list[MadeImage]


def _add_generate(app: FastAPI, service: Service) -> None:
    png = {"image/png": {"schema": {"type": "string", "format": "binary"}}}

    @app.post(
        "/v1/generate",
        summary="Make images",
        response_model=None,
        responses={
            200: {"model": MadeImages, "content": png},
            **_problems("malformed", "unknown", "too-large", "invalid"),
        },
    )
    async def generate(request: Request, wish: Wish) -> Response:
        chosen = service.pick(ImageMaker, wish.model)
        how = {"seed": wish.seed, "class_name": wish.class_, "truncation": wish.truncation}
        with service.admitted_long():
            images = await service.long(
                request, partial(chosen.make, start=wish.start, count=wish.count, **how)
            )

        service.measures.images(chosen.name, len(images))
        if wish.format == "png":
            columns = min(8, len(images))
            sheet = await service.in_pool(png_bytes, sampling.grid(np.stack(images), columns))
            return Response(sheet, media_type="image/png")

        made = [
            {"index": i, "class": chosen.class_of(i, wish.class_), "png": png_text(image)}
            for i, image in enumerate(images, wish.start)
        ]
        return _json({"model": chosen.name, "seed": wish.seed, "images": made})


def _add_upscale(app: FastAPI, service: Service) -> None:
    png = {"image/png": {"schema": {"type": "string", "format": "binary"}}}

    @app.post(
        "/v1/upscale",
        summary="Enlarge a photo",
        openapi_extra=_body(several=False),
        response_class=Response,
        responses={
            200: {"content": png, "description": "The enlarged photo, a PNG."},
            **_problems("malformed", "unknown", "too-large", "media-type", "unreadable"),
        },
    )
    async def upscale(request: Request, how: Annotated[Parameters, Query()]) -> Response:
        chosen = service.pick(PhotoEnlarger, how.model)
        ((_, content),) = await _uploads(request, 1)
        with service.admitted_long():
            try:
                picture = await service.in_pool(chosen.read, content, service.settings.max_pixels)
            except UserError as error:
                raise Problem("unreadable", str(error)) from None
            large = await service.long(request, partial(chosen.enlarge, picture=picture))
            answer = await service.in_pool(chosen.png, large)
        service.measures.images(chosen.name, 1)
        return Response(answer, media_type="image/png")


# ---- what there is, and how it is -------------------------------------------------------------------------------------


def _add_looks(app: FastAPI, service: Service) -> None:
    @app.get(
        "/v1/models",
        summary="List the models with their classes and figures",
        responses=_problems("unknown"),
    )
    async def models() -> dict[str, Any]:
        settings = service.settings
        limits = {
            "max_upload_mb": settings.max_upload_mb,
            "max_pixels": settings.max_pixels,
            "queue": settings.queue,
        }
        return {"models": [model.describe() for model in service.models.values()], "limits": limits}

    @app.get("/healthz", summary="Whether the process lives", responses=_problems())
    async def healthz() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/readyz", summary="Whether requests are taken", responses=_problems("stopping"))
    async def readyz() -> dict[str, str]:
        if service.draining or not service.compute.alive:
            raise Problem("stopping", "the service takes no more requests.")
        return {"status": "ready"}

    @app.get(
        "/metrics",
        summary="Figures for Prometheus",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **_problems()},
    )
    async def metrics() -> Response:
        return Response(service.measures.text(), media_type=MEDIA_TYPE)

    @app.get(
        "/reports/{name}",
        summary="The report of a model, a page",
        response_class=Response,
        responses={
            200: {"content": {"text/html": {"schema": {"type": "string"}}}},
            **_problems("unknown"),
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


def _add_pages(app: FastAPI, gate: Gate) -> None:
    """Add the page, its documentation and their files; every one is named here, and no folder is
    opened to the web.
    """
    folder = resources.files("tintype.verbs.serve") / "page"

    def add(address: str, content: bytes, media_type: str) -> None:
        async def page() -> Response:
            return Response(content, headers={"Cache-Control": "no-cache"}, media_type=media_type)

        app.add_api_route(address, page, include_in_schema=False)

    for address, (file, media_type) in FILES.items():
        add(address, (folder / file).read_bytes(), media_type)
    template = jinja2.Environment(autoescape=True, trim_blocks=True).from_string(
        (folder / "docs.html").read_text("utf-8")
    )
    token = gate.service.settings.token is not None
    docs = template.render(api=app.openapi(), problems=KINDS, examples=EXAMPLES, token=token)
    add("/docs", docs.encode(), "text/html")

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
