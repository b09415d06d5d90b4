"""The address of the service that says numbers of photos."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from fastapi import FastAPI, Query, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from tintype.tasks.contract.routes import (
    Application,
    Parameters,
    ProblemDetails,
    Service,
    answer_photos,
    direct,
    photo_upload,
)
from tintype.tasks.regress.serve import PhotoNumbers

EXAMPLES = {
    "/v1/numbers": [
        "curl --data-binary @photo.jpg -H 'content-type: image/jpeg' 'http://HOST/v1/numbers'",
        "curl -F files=@one.jpg -F files=@two.png 'http://HOST/v1/numbers?model=NAME'",
    ],
}


class Number(BaseModel):
    """A number with its predictive interval, whose ends are null where there is none."""

    value: float
    low: float | None
    high: float | None


class NumberItem(BaseModel):
    """The numbers of one photo; or, of several photos, why it could not be read."""

    file: str
    numbers: dict[str, Number] | None = None
    unlike: str | None = Field(
        None,
        description="Why the photo is unlike the training images: its interval does not apply.",
    )
    problem: ProblemDetails | None = None


class NumberAnswers(BaseModel):
    """The answer to an upload, in the order of its files."""

    model: str
    predictions: list[NumberItem]


def add(app: FastAPI, service: Service) -> Mapping[str, Application]:
    """Add the address; see RoutesPart."""

    async def answer(request: Request, how: Parameters) -> Response:
        return await answer_photos(request, service, PhotoNumbers, how)

    @app.post("/v1/numbers", **photo_upload("Say numbers of photos", NumberAnswers))
    async def numbers(request: Request, how: Annotated[Parameters, Query()]) -> Response:
        return await answer(request, how)

    return {"/v1/numbers": direct(Parameters, answer)}
