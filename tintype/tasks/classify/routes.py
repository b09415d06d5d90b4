"""The address of the service that says what is on photos."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from fastapi import FastAPI, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from tintype.tasks.classify.serve import PhotoClassifier, PredictParameters
from tintype.tasks.contract.routes import (
    Application,
    ProblemDetails,
    Service,
    answer_photos,
    direct,
    photo_upload,
)

EXAMPLES = {
    "/v1/predict": [
        "curl --data-binary @photo.jpg -H 'content-type: image/jpeg' "
        "'http://HOST/v1/predict?top=3'",
        "curl -F files=@one.jpg -F files=@two.png 'http://HOST/v1/predict?model=NAME'",
    ],
}


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
        description="Why the photo is unlike the training images, where it is: "
        "its probabilities do not apply.",
    )
    heatmap: str | None = Field(
        None, description="A PNG as base64: the picture that the model saw, with a heat map."
    )
    problem: ProblemDetails | None = None


class Predictions(BaseModel):
    """The answer to an upload, in the order of its files."""

    model: str
    predictions: list[PredictionItem]


def add(app: FastAPI, service: Service) -> Mapping[str, Application]:
    """Add the address; see RoutesPart."""

    async def answer(request: Request, how: PredictParameters) -> Response:
        return await answer_photos(request, service, PhotoClassifier, how)

    @app.post("/v1/predict", **photo_upload("Say what is on photos", Predictions))
    async def predict(request: Request, how: Annotated[PredictParameters, Query()]) -> Response:
        return await answer(request, how)

    return {"/v1/predict": direct(PredictParameters, answer)}
