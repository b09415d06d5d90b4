"""The address of the service that makes images."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Literal

import numpy as np
from fastapi import FastAPI, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from tintype.tasks.contract.routes import Application, Service, json_answer, problems
from tintype.tasks.contract.serve import png_bytes, png_text
from tintype.tasks.generate.serve import ImageMaker

MOST_GENERATED = 64  # images in one answer
FARTHEST = 999_999  # index of an image of a seed
EXAMPLES = {
    "/v1/generate": [
        "curl -H 'content-type: application/json' http://HOST/v1/generate -o sheet.png \\\n"
        """     -d '{"count": 64, "seed": 7, "format": "png"}'"""
    ],
}


class GenerateRequest(BaseModel):
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


def add(app: FastAPI, service: Service) -> Mapping[str, Application]:
    """Add the address; see RoutesPart."""
    png = {"image/png": {"schema": {"type": "string", "format": "binary"}}}

    @app.post(
        "/v1/generate",
        summary="Make images",
        response_model=None,
        responses={
            200: {"model": MadeImages, "content": png},
            **problems("malformed", "unknown", "too-large", "invalid"),
        },
    )
    async def generate(request: Request, asked: GenerateRequest) -> Response:
        chosen = service.pick(ImageMaker, asked.model)
        how = {"seed": asked.seed, "class_name": asked.class_, "truncation": asked.truncation}
        with service.admitted_long():
            images = await service.long(
                request, partial(chosen.make, start=asked.start, count=asked.count, **how)
            )

        service.count_images(chosen.name, len(images))
        if asked.format == "png":
            from tintype.tasks.generate import sampling  # which the model has brought along

            columns = min(8, len(images))
            sheet = await service.in_pool(png_bytes, sampling.grid(np.stack(images), columns))
            return Response(sheet, media_type="image/png")

        made = [
            {"index": i, "class": chosen.class_of(i, asked.class_), "png": png_text(image)}
            for i, image in enumerate(images, asked.start)
        ]
        return json_answer({"model": chosen.name, "seed": asked.seed, "images": made})

    return {}
