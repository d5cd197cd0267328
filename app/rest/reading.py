"""Reading: the body of a request, as JSON or as a form with a file, becomes what was asked."""

import json
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from app.rest.schemas import PredictRequest
from app.settings import Limits
from cxr_mm.core.errors import InputError
from cxr_mm.core.types import faults_of

JSON, FORM = "application/json", "multipart/form-data"
JSON_FIELDS = ("clinical", "findings", "methods")
"""Fields of a form that hold JSON."""
MOST_FIELDS = 16
REMEDY = "See /v1/openapi.json"
T = TypeVar("T", bound=BaseModel)
S = TypeVar("S", bound=PredictRequest)


async def read_json_body(request: Request, kind: type[T]) -> T:
    """Read a body of JSON.

    Raises:
        HTTPException: it says that it is something else.
        InputError: it is no JSON, or a field is missing, unknown or of the wrong type.
    """
    if _media_type(request) != JSON:
        raise HTTPException(415, f"Send {JSON}")
    return await run_in_threadpool(_checked, kind, await request.body())


@asynccontextmanager
async def read_study(
    request: Request, kind: type[S], limits: Limits
) -> AsyncIterator[tuple[S, str | None]]:
    """Read a study from JSON or a form; gives what was asked, and the path of its image.

    The image is deleted with the context.

    Raises:
        HTTPException: the body is neither, or the image is too large.
        InputError: a field is unknown or of the wrong type.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "image"
        if _media_type(request) == FORM:
            body = await _read_form(request, kind, path, limits)
        elif _media_type(request) == JSON:
            body = await read_json_body(request, kind)
            if body.image is not None:
                _check_size(len(body.image), limits)
                await run_in_threadpool(path.write_bytes, body.image)
        else:
            raise HTTPException(415, f"Send {FORM} or {JSON}")
        yield body, str(path) if path.exists() else None


async def _read_form(request: Request, kind: type[S], path: Path, limits: Limits) -> S:
    parts = request.form(max_files=1, max_fields=MOST_FIELDS, max_part_size=limits.request_bytes)
    async with parts as form:
        values: dict[str, Any] = {}
        for name, value in form.multi_items():
            if name in values or isinstance(value, UploadFile) != (name == "image"):
                raise InputError(
                    "given twice, or a file where a text belongs", field=name, remedy=REMEDY
                )
            values[name] = value
        image = values.pop("image", None)
        body = _checked(kind, {name: _field(name, text) for name, text in values.items()})
        if isinstance(image, UploadFile) and image.size:
            _check_size(image.size, limits)
            await run_in_threadpool(_copy, image.file, path)
        return body


def _field(name: str, text: str) -> Any:
    """Value of a form's field; an empty one is not given."""
    if name not in JSON_FIELDS or not text.strip():
        return text or None
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError("not JSON", field=name, remedy='Write it as {"age": 63}') from error


def _checked(kind: type[T], given: bytes | dict[str, Any]) -> T:
    try:
        if isinstance(given, bytes):
            return kind.model_validate_json(given)
        return kind.model_validate(given)
    except ValidationError as error:
        field, message = faults_of(error, kind)
        raise InputError(message, field=field, remedy=REMEDY) from error


def _check_size(size: int, limits: Limits) -> None:
    if size > limits.file_bytes:
        raise HTTPException(413, f"The image is larger than {limits.file_bytes >> 20} MB")


def _copy(file: BinaryIO, path: Path) -> None:
    with path.open("wb") as out:
        shutil.copyfileobj(file, out)


def _media_type(request: Request) -> str:
    return request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
