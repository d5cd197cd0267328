"""Source `merged`: several sources as one, their labels mapped to the findings of the task."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pandas as pd
from pydantic import Field, model_validator

from cxr_mm.core.errors import TaskError, did_you_mean
from cxr_mm.core.task import Finding, LabelRule, SourceSpec, Task
from cxr_mm.core.types import Frozen
from cxr_mm.data.manifest import TEXT_COLUMNS, finding_column
from cxr_mm.data.sources.base import RawStudies, checked_options, raw_studies
from cxr_mm.data.sources.label_rules import as_written, labels_of
from cxr_mm.data.sources.losses import Dropped

IDS = ("study_id", "patient_id", "group")


class Member(SourceSpec):
    """One of the sources, and what its labels and columns are in the task."""

    labels: dict[str, LabelRule] = Field(min_length=1)
    """Finding of the task → raw labels of this source that mean present and absent. A finding that
    is not named is not known of any of its studies, which is not the same as absent."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Column of this source → its name in the task."""

    @model_validator(mode="after")
    def _real(self) -> "Member":
        if self.kind in ("merged", "synthetic"):
            raise ValueError(f"a source of kind {self.kind} cannot be merged")
        return self


class MergedOptions(Frozen):
    """Options of merged sources."""

    members: dict[str, Member] = Field(min_length=2)
    """Name, which becomes the site of its studies → the source."""


def members_of(task: Task) -> dict[str, Task]:
    """The question asked of each source alone, by its name.

    The tasks have the source and the findings of the member, and no clinical features, since
    a source need not have any; filters are left to the merged task.

    Raises:
        TaskError: an option is unknown or has a wrong value, a member labels a finding that the
            task does not have, a finding is labelled by none, or reads labels of its own.
    """
    members = checked_options(MergedOptions, task).members
    _check_findings(task, members)
    return {name: _member_task(task, name, member) for name, member in members.items()}


def _check_findings(task: Task, members: Mapping[str, Member]) -> None:
    where = f"tasks/{task.name}: "
    plain = {
        finding.name: Finding(name=finding.name, title=finding.title) for finding in task.findings
    }
    for finding in task.findings:
        if finding != plain[finding.name]:
            raise TaskError(
                f"{finding.name} has labels of its own",
                field=f"{where}findings",
                remedy="Say in source.options.members which labels of each source mean it",
            )
        if not any(finding.name in member.labels for member in members.values()):
            raise TaskError(
                f"no member has labels of {finding.name}",
                field=f"{where}source.options.members",
                remedy="Name them under labels of a member, or leave the finding out",
            )
    for name, member in members.items():
        if unknown := sorted(member.labels.keys() - plain.keys()):
            raise TaskError(
                f"{', '.join(unknown)} is no finding of the task",
                field=f"{where}source.options.members.{name}.labels",
                remedy=did_you_mean(unknown[0], plain, f"Findings are {', '.join(plain)}"),
            )


def _member_task(task: Task, name: str, member: Member) -> Task:
    findings = tuple(
        Finding(name=finding, title=finding, **rule.model_dump())
        for finding, rule in member.labels.items()
    )
    source = SourceSpec(**member.model_dump(exclude={"labels", "columns"}))
    # The name stands in messages; the other fields play no part in reading.
    only = {"name": f"{task.name}.{name}", "findings": findings, "source": source, "clinical": ()}
    return task.model_copy(update=only)


def merge(task: Task, read: Mapping[str, RawStudies]) -> RawStudies:
    """Merge what the members' sources read.

    Ids of studies, patients and groups become `NAME/ID`, so that members never collide; `site` is
    the name. Each finding has a column of its name: `1`, `0`, nothing where the member does not
    know it, or the cell as it is where it means neither. A column that some members lack is missing
    there.

    Args:
        task: the merged task.
        read: raw studies of every member of `members_of`, image paths absolute.

    Raises:
        TaskError: a column to rename is not there.
        ManifestError: a label column is missing.
    """
    members, tasks = checked_options(MergedOptions, task).members, members_of(task)
    frames = [
        _member_frame(task, tasks[name], name, members[name], raw) for name, raw in read.items()
    ]
    dropped = [
        Dropped(f"{name}/{one.study_id}", one.reason, one.found)
        for name, raw in read.items()
        for one in raw.dropped
    ]
    notices = [f"{name}: {text}" for name, raw in read.items() for text in raw.notices]
    passed_over = sum((raw.passed_over for raw in read.values()), Counter[str]())
    return raw_studies(pd.concat(frames, ignore_index=True), dropped, passed_over, tuple(notices))


def _member_frame(
    task: Task, own: Task, name: str, member: Member, raw: RawStudies
) -> pd.DataFrame:
    """Studies of one member under the ids, columns and labels of the task."""
    labels = _mapped_labels(own, raw.frame)
    frame = _renamed(raw.frame, member.columns, own.name)
    keys = {*IDS, task.group_key} & set(frame.columns)
    ids = {key: frame[key].map(f"{name}/{{}}".format, na_action="ignore") for key in sorted(keys)}
    unknown: dict[str, Any] = dict.fromkeys(task.finding_names)
    return frame.assign(**{**unknown, **labels, **ids, "site": name}).astype(object)


def _mapped_labels(own: Task, frame: pd.DataFrame) -> dict[str, "pd.Series[Any]"]:
    """`1`, `0`, None or the cell itself for each finding of a member."""
    labels, unclear = labels_of(own, frame)
    mapped = {}
    for finding in own.findings:
        column = finding_column(finding.name)
        cells = frame[as_written(finding, frame).raw_column].where(unclear[column], None)
        known = labels[column].map({1.0: "1", 0.0: "0"})
        mapped[finding.name] = known.where(labels[column].notna(), cells)
    return mapped


def _renamed(frame: pd.DataFrame, columns: Mapping[str, str], where: str) -> pd.DataFrame:
    if missing := [column for column in columns if column not in frame.columns]:
        given = [str(column) for column in frame.columns if column not in TEXT_COLUMNS]
        raise TaskError(
            f"the source has no column {', '.join(missing)}",
            field=f"tasks/{where}: columns",
            remedy=f"Columns are {', '.join(given)}",
        )
    # A column that has the new name already, as the empty `view` of some sources, makes room.
    replaced = sorted(set(columns.values()) - set(columns))
    return frame.drop(columns=replaced, errors="ignore").rename(columns=dict(columns))
