"""Routes of `/v1`: the calls of `app.calls` by plain HTTP, and the document that describes them."""

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from pydantic.json_schema import models_json_schema
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from app import calls
from app.calls import EXPLANATIONS_AT_ONCE, MOST_WAITING, READINGS_AT_ONCE
from app.rest.problems import PROBLEM, BusyError, Problem, of_error
from app.rest.reading import FORM, JSON, JSON_FIELDS, read_json_body, read_study
from app.rest.schemas import (
    ExplainRequest,
    ExplainResponse,
    FeatureInfo,
    FeedbackRequest,
    FindingInfo,
    ModelInfo,
    PredictRequest,
    StoredLabels,
)
from app.security.middleware import REST
from app.service import InferenceService
from app.settings import Limits
from cxr_mm.core.errors import CxrError, InputError
from cxr_mm.core.prediction import NOTICE, Prediction
from cxr_mm.explain.methods import methods_of

VERSION = "1"
POSTED = tuple(f"{REST}/{name}" for name in ("predict", "explain", "feedback"))
READ = (f"{REST}/model", f"{REST}/openapi.json")
STUDIES = POSTED[:2]
"""Paths of requests that may hold an image."""
REFUSALS = {
    400: "The body cannot be read",
    401: "No one has signed in",
    403: "Another site asked",
    408: "The upload took too long",
    413: "Too large",
    415: "Another media type",
    421: "The server has another name",
    422: "An input is invalid",
    429: "Too many requests, or wrong passwords",
    500: "The server failed",
    503: "Too many requests wait, or the log cannot be written",
}
T = TypeVar("T")


class WorkQueue:
    """Work of one kind for one model: so many at once, so many more that wait."""

    def __init__(self, at_once: int, most_waiting: int = MOST_WAITING) -> None:
        self._turn, self._most = asyncio.Semaphore(at_once), at_once + most_waiting
        self.pending = 0

    async def run(self, work: Callable[[], T]) -> T:
        """Do the work in a thread, when it is its turn.

        Raises:
            BusyError: too many wait.
        """
        if self.pending >= self._most:
            raise BusyError
        self.pending += 1
        try:
            async with self._turn:
                return await run_in_threadpool(work)
        finally:
            self.pending -= 1


class Served:
    """One model, and the queues of its work."""

    def __init__(self, service: InferenceService) -> None:
        self.service = service.of_source("rest")
        self.predictions = WorkQueue(service.at_once)
        self.explanations = WorkQueue(EXPLANATIONS_AT_ONCE)
        self.readings = WorkQueue(READINGS_AT_ONCE)


class Api:
    """The routes of all models.

    Args:
        services: by the name under which each is asked for.
        limits: of an image and of a text.
    """

    def __init__(self, services: Mapping[str, InferenceService], limits: Limits) -> None:
        self._served = {name: Served(service) for name, service in services.items()}
        self._limits = limits

    @property
    def pending(self) -> int:
        """Requests that are at work or wait."""
        served = self._served.values()
        return sum(s.predictions.pending + s.explanations.pending for s in served)

    async def predict(self, request: Request) -> dict[str, Any]:
        """Predict one study from any subset of its inputs, and log it."""
        async with read_study(request, PredictRequest, self._limits) as (body, image):
            served, values = self._of(body.model), _inputs(body, image)
            values["patient_id"] = body.patient_id
            work = partial(calls.predict, served.service, **values)
            return await served.predictions.run(work)

    async def explain(self, request: Request) -> dict[str, Any]:
        """Explain one study; nothing is logged."""
        async with read_study(request, ExplainRequest, self._limits) as (body, image):
            served, values = self._of(body.model), _inputs(body, image)
            values |= {"findings": body.findings, "methods": body.methods}
            work = partial(calls.explain, served.service, **values)
            return await served.explanations.run(work)

    async def feedback(self, request: Request) -> dict[str, Any]:
        """Log a reader's assessment of a prediction."""
        body = await read_json_body(request, FeedbackRequest)
        served = self._of(body.model)
        work = partial(
            calls.feedback,
            served.service,
            body.prediction.model_dump(),
            body.verdict,
            body.labels,
            body.comment,
        )
        return await served.readings.run(work)

    def model(self, model: str | None = None) -> ModelInfo:
        """The model that serves now, and what it reads."""
        served = self._of(model)
        name = next(name for name, each in self._served.items() if each is served)
        return _info(name, served.service)

    def _of(self, name: str | None) -> Served:
        if name is None and len(self._served) == 1:
            return next(iter(self._served.values()))
        if name not in self._served:
            raise InputError(
                "several models serve" if name is None else "no such model",
                field="model",
                remedy=f"Name one of {', '.join(self._served)}",
            )
        return self._served[name]


def _inputs(body: PredictRequest, image: str | None) -> dict[str, Any]:
    names = ("clinical", "note", "view", "study_id")
    return {"image": image, **{name: getattr(body, name) for name in names}}


def _info(name: str, service: InferenceService) -> ModelInfo:
    bundle, task = service.bundle, service.task
    return ModelInfo(
        name=name,
        task=task.name,
        title=task.title,
        problem=task.problem,
        model=bundle.name,
        digest=bundle.digest,
        modalities=task.modalities,
        findings=[FindingInfo(name=f.name, title=f.title) for f in task.findings],
        clinical=[
            FeatureInfo(**f.model_dump(include=set(FeatureInfo.model_fields)))
            for f in task.clinical
        ],
        methods=[each.name for modality in task.modalities for each in methods_of(modality)],
        synthetic=task.synthetic,
        notice=NOTICE,
        trouble=service.trouble,
    )


def application(routes: Api) -> FastAPI:
    """The routes as an application, to be mounted at `/v1`."""
    app = FastAPI(
        title="cxr_mm",
        version=VERSION,
        description=f"Multimodal chest radiograph models. {NOTICE}",
        docs_url=None,
        redoc_url=None,
        servers=[{"url": REST}],
        root_path_in_servers=False,
    )
    for error in (CxrError, BusyError, HTTPException, Exception):
        app.add_exception_handler(error, of_error)
    app.add_exception_handler(ClientDisconnect, lambda *_: Response(status_code=400))
    refusals: dict[int | str, dict[str, Any]] = {
        status: {"description": text, "content": {PROBLEM: {"schema": _reference(Problem)}}}
        for status, text in REFUSALS.items()
    }
    for call, answer, body in (
        (routes.predict, Prediction, _study_body(PredictRequest)),
        (routes.explain, ExplainResponse, _study_body(ExplainRequest)),
        (routes.feedback, StoredLabels, _body({JSON: {"schema": _reference(FeedbackRequest)}})),
    ):
        app.post(
            f"/{call.__name__}",
            response_model=answer,
            response_model_exclude_unset=True,
            responses=refusals,
            openapi_extra=body,
            operation_id=call.__name__,
        )(call)
    app.get("/model", operation_id="model", responses=refusals)(routes.model)
    _complete(app.openapi())
    return app


def _reference(kind: type) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{kind.__name__}"}


def _body(content: dict[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": content}}


def _study_body(kind: type[PredictRequest]) -> dict[str, Any]:
    """A study as JSON, or as a form whose image is a file and whose nested fields are JSON."""
    properties = {
        name: {"$ref": f"#/components/schemas/{kind.__name__}/properties/{name}"}
        for name in kind.model_fields
    }
    file = {"type": "string", "contentMediaType": "application/octet-stream"}
    form = {"type": "object", "properties": {**properties, "image": file}}
    nested = [name for name in JSON_FIELDS if name in kind.model_fields]
    encoding = {name: {"contentType": JSON} for name in nested}
    return _body({FORM: {"schema": form, "encoding": encoding}, JSON: {"schema": _reference(kind)}})


def _complete(document: dict[str, Any]) -> None:
    """Add what the routes read by themselves, and how one signs in, to the document."""
    _, schemas = models_json_schema(
        [
            (PredictRequest, "validation"),
            (ExplainRequest, "validation"),
            (FeedbackRequest, "validation"),
            (Problem, "validation"),
        ],
        ref_template="#/components/schemas/{model}",
    )
    components = document["components"]
    components["schemas"] = dict(sorted({**components["schemas"], **schemas["$defs"]}.items()))
    components["securitySchemes"] = {
        "password": {"type": "http", "scheme": "basic"},
        "session": {"type": "apiKey", "in": "cookie", "name": "cxr_mm_session"},
    }
    document["security"] = [{}, {"password": []}, {"session": []}]
