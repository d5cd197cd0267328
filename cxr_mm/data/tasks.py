"""Tasks on disk: the shipped YAML files, a project's own, or any path."""

from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from cxr_mm.contracts.task import Task
from cxr_mm.errors import TaskError

SHIPPED = Path(str(resources.files("cxr_mm"))) / "tasks"
SUFFIXES = (".yaml", ".yml")


def shipped_tasks() -> list[str]:
    """Names of the tasks that come with the package."""
    return sorted(file.stem for file in SHIPPED.glob("*.yaml"))


def load_task(name_or_path: str | Path, project: Path = Path()) -> Task:
    """Load a task.

    Args:
        name_or_path: a path to a YAML file; or a name, looked for as `tasks/NAME.yaml` below
            the project, then among the shipped tasks.
        project: the project's folder.

    Raises:
        TaskError: there is no such task, or its file does not say what it must.
    """
    text = str(name_or_path)
    if text.endswith(SUFFIXES) or "/" in text:
        return _read(Path(text).expanduser())
    own = project / "tasks" / f"{text}.yaml"
    if own.is_file():
        return _read(own)
    if text not in shipped_tasks():
        raise TaskError(
            "no such task",
            field=text,
            remedy=f"Shipped are {', '.join(shipped_tasks())}; put your own into {own}",
        )
    return _read(SHIPPED / f"{text}.yaml")


def _read(path: Path) -> Task:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise TaskError(
            f"cannot be read ({error.strerror})",
            field=str(path),
            remedy="Give the path of a task's YAML file",
        ) from error
    except UnicodeDecodeError as error:
        raise TaskError("not text in UTF-8", field=str(path)) from error
    return _parse(text, str(path))


def _parse(text: str, where: str) -> Task:
    try:
        raw: Any = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise TaskError(
            f"not YAML: {error}", field=where, remedy="Mend the syntax at the place named"
        ) from error
    try:
        return Task.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "top level"
        raise TaskError(
            first["msg"].removeprefix("Value error, "),
            field=f"{where}: {field}",
            remedy=f"Compare it with {SHIPPED / 'pneumonia.yaml'}",
        ) from error
