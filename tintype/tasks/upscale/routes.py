"""The address of the service that enlarges a photo."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated

from fastapi import FastAPI, Query, Request
from starlette.responses import Response

from tintype.errors import UserError
from tintype.tasks.contract.problems import Problem
from tintype.tasks.contract.routes import (
    Application,
    Parameters,
    Service,
    problems,
    upload_body,
    uploads,
)
from tintype.tasks.upscale.serve import PhotoEnlarger

EXAMPLES = {
    "/v1/upscale": [
        "curl --data-binary @photo.jpg -H 'content-type: "
        "image/jpeg' http://HOST/v1/upscale -o large.png"
    ],
}


def add(app: FastAPI, service: Service) -> Mapping[str, Application]:
    """Add the address; see RoutesPart."""
    png = {"image/png": {"schema": {"type": "string", "format": "binary"}}}

    @app.post(
        "/v1/upscale",
        summary="Enlarge a photo",
        openapi_extra=upload_body(several=False),
        response_class=Response,
        responses={
            200: {"content": png, "description": "The enlarged photo, a PNG."},
            **problems("malformed", "unknown", "too-large", "media-type", "unreadable"),
        },
    )
    async def upscale(request: Request, how: Annotated[Parameters, Query()]) -> Response:
        chosen = service.pick(PhotoEnlarger, how.model)
        ((_, content),) = await uploads(request, 1)
        with service.admitted_long():
            try:
                picture = await service.in_pool(chosen.read, content, service.max_pixels)
            except UserError as error:
                raise Problem("unreadable", str(error)) from None
            large = await service.long(request, partial(chosen.enlarge, picture=picture))
            answer = await service.in_pool(chosen.png, large)
        service.count_images(chosen.name, 1)
        return Response(answer, media_type="image/png")

    return {}
