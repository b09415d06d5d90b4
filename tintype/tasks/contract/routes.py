"""What the addresses of a task share: uploads, errors and their description, and the service.

`tasks/NAME/routes.py` holds the members of `RoutesPart`. An address that answers photos calls
`answer_photos`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

from fastapi import FastAPI, Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException
from starlette.responses import Response

from tintype.errors import UserError
from tintype.tasks.contract.problems import KINDS, Problem, json_bytes
from tintype.tasks.contract.problems import MEDIA_TYPE as PROBLEM
from tintype.tasks.contract.serve import Between, Served, ServedPhotos

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

T = TypeVar("T", bound=Served)
P = TypeVar("P", bound="Parameters")

MOST_FIELDS = 16  # of a form, which should have none
IMAGE_TYPES = (
    "image/jpeg",
    "image/png",
    "image/webp",
    "image/gif",
    "image/tiff",
    "image/bmp",
    "image/x-portable-pixmap",
)


class Service(Protocol):
    """The models with the threads that decode and compute, as an address sees them."""

    def pick(self, kind: type[T], name: str | None) -> T:
        """Return the model of that name, or the only one of its kind.

        Raises:
            Problem: there is none, it does something else, or there are several and none was named.
        """
        ...

    @property
    def most_photos(self) -> int:
        """How many photos one request may hold."""
        ...

    @property
    def max_pixels(self) -> int:
        """How many pixels one photo may have."""
        ...

    def admitted(self, count: int) -> AbstractContextManager[None]:
        """Hold places for photos until they are answered.

        Raises:
            Problem: the queue is full.
        """
        ...

    def admitted_long(self) -> AbstractContextManager[None]:
        """Hold a place for a job that takes long.

        Raises:
            Problem: too many are waiting.
        """
        ...

    def batched(self, model: ServedPhotos, content: bytes, parameters: Any) -> asyncio.Future[Any]:
        """Decode a photo and answer it in a batch; a UserError says why it cannot be read."""
        ...

    async def in_pool(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run a function in the threads that decode."""
        ...

    async def long(self, request: Request, function: Callable[[Between], Any]) -> Any:
        """Compute a job that takes long; it ends early where the client has gone."""
        ...

    def count_images(self, model: str, count: int) -> None:
        """Count images that a model answered, for /metrics."""
        ...


class RoutesPart(Protocol):
    """What `tasks/NAME/routes.py` holds.

    Attributes:
        EXAMPLES: what to type for each address, for the page of the API.
    """

    EXAMPLES: Mapping[str, Sequence[str]]

    def add(self, app: FastAPI, service: Service) -> Mapping[str, Application]:
        """Add the addresses of the task.

        Returns:
            For some addresses, what answers a POST without FastAPI, which would take a third of the
            event loop's time.
        """
        ...


# ---- parameters and errors ----------------------------------------------------------------------


class Parameters(BaseModel):
    """What stands after the question mark; what is not known is an error."""

    model_config = ConfigDict(extra="forbid")
    model: str | None = Field(
        default=None, description="Name of the model, where several are served."
    )


class ProblemDetails(BaseModel):
    """An error, as RFC 9457 has it."""

    type: str
    title: str
    status: int
    detail: str


def invalid(errors: Sequence[Any]) -> Problem:
    """Return the problem for what pydantic found."""
    where = ".".join(str(part) for part in errors[0]["loc"]) or "the body"
    kind = "malformed" if errors[0]["type"] == "json_invalid" else "invalid"
    return Problem(kind, f"{where}: {errors[0]['msg'].lower()}.")


def problems(*kinds: str) -> dict[int | str, dict[str, Any]]:
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


# ---- uploads ------------------------------------------------------------------------------------


def upload_body(*, several: bool) -> dict[str, Any]:
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


def photo_upload(summary: str, answers: type[BaseModel]) -> dict[str, Any]:
    """Return how FastAPI describes an address that answers one photo, or several."""
    return {
        "summary": summary,
        "description": "Send one photo as the body, or several as parts of a form.",
        "openapi_extra": upload_body(several=True),
        "response_model": None,
        "responses": {
            200: {"model": answers},
            **problems("malformed", "unknown", "too-large", "media-type", "unreadable"),
        },
    }


async def uploads(request: Request, most: int) -> list[tuple[str, bytes]]:
    """Return the files of a request with their names; a body that is the file itself has none.

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


# ---- answers ------------------------------------------------------------------------------------


def json_answer(content: Any) -> Response:
    """Return JSON; numbers in full, so that they are those of Python."""
    return Response(json_bytes(content), media_type="application/json")


async def answer_photos(
    request: Request, service: Service, kind: type[ServedPhotos], parameters: Parameters
) -> Response:
    """Answer the photos of an upload, in the order of its files.

    Raises:
        Problem: the upload cannot be taken, none of its photos can be read, or no model fits.
    """
    chosen = service.pick(kind, parameters.model)
    files = await uploads(request, service.most_photos)
    with service.admitted(len(files)):
        futures = [service.batched(chosen, content, parameters) for _, content in files]
        answers = [await _outcome(future) for future in futures]

    failed = [answer for answer in answers if isinstance(answer, UserError)]
    if len(failed) == len(files):
        raise Problem("unreadable", str(failed[0]))

    service.count_images(chosen.name, len(files) - len(failed))
    items = []
    for (name, _), answer in zip(files, answers, strict=True):
        if isinstance(answer, UserError):
            problem = Problem("unreadable", str(answer)).describe()
            items.append({"file": name, "problem": problem})
        else:
            items.append({"file": name, **chosen.item(answer, parameters)})
    return json_answer({"model": chosen.name, "predictions": items})


async def _outcome(future: asyncio.Future[Any]) -> Any:
    try:
        return await future
    except UserError as error:
        return error


def direct(parameters: type[P], answer: Callable[[Request, P], Awaitable[Response]]) -> Application:
    """Return what answers an address without FastAPI, by the same function."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            response = await answer(request, parameters.model_validate(dict(request.query_params)))
        except ValidationError as error:
            response = invalid(error.errors()).response()
        except Problem as problem:
            response = problem.response()
        await response(scope, receive, send)

    return application
