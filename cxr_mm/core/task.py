"""Task: findings to predict from one data source, defined in one YAML file."""

import re
from collections.abc import Collection
from importlib import resources
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from cxr_mm.core.errors import InputError, TaskError, did_you_mean
from cxr_mm.core.types import Frozen, Modality, faults_of

Problem = Literal["binary", "multiclass", "multilabel"]
Protocol = Literal["patient", "official", "folds", "sites"]
SourceKind = Literal[
    "synthetic",
    "kermany",
    "nih14",
    "cohen",
    "nlm_tb",
    "class_folders",
    "manifest_csv",
    "dicom_folder",
    "merged",
]
ANY_OTHER = "*"
VIEWS = ("PA", "AP", "LL", "RL", "RLD", "LLD", "RLO", "LLO")
"""View positions of DICOM (PS3.3 C.8.11.5)."""
NAME = re.compile(r"^[a-z][a-z0-9_]*$")
UNIT_NAMES = {
    "a": "years",
    "d": "days",
    "h": "hours",
    "Cel": "°C",
    "10*9/L": "×10⁹/L",
    "10*12/L": "×10¹²/L",
    "/min": "per minute",
    "mm[Hg]": "mmHg",
    "umol/L": "µmol/L",
}
"""UCUM code → as a person writes the unit."""


class LabelRule(Frozen):
    """The raw labels of a source that mean present and absent."""

    column: str = ""
    """Raw label column of the source; empty means the column named after the finding."""
    positive: tuple[str, ...] = ("1",)
    """Raw labels that mean present; one of them is enough."""
    negative: tuple[str, ...] = ("0",)
    """Raw labels that mean absent; `*` means any other label that is given.
    A row with neither has a missing label."""
    unlabelled: tuple[str, ...] = ()
    """Raw labels without information, even if `negative` is `*`."""


class FindingCode(Frozen):
    """A finding in a coding scheme, as DICOM objects name it."""

    scheme: str = Field(min_length=1, max_length=16)
    """Coding scheme designator of DICOM (PS3.16 8): `SCT` is SNOMED CT, `RADLEX` RadLex."""
    value: str = Field(min_length=1, max_length=16)
    """The code itself, in quotes: `"60046008"`."""
    meaning: str = Field(min_length=1, max_length=64)
    """What the scheme calls it: `Pleural effusion`."""


class Finding(LabelRule):
    """A finding to predict, and how its labels are read."""

    name: str
    """Identifier: lower case, digits, underscores."""
    title: str
    """Name for people, in clinical terms."""
    # Left out where there is none: files of tasks without codes stay as they were.
    code: FindingCode | None = Field(None, exclude_if=lambda code: code is None)
    """How DICOM objects name it; without one they use a private code (99CXRMM)."""

    @field_validator("name")
    @classmethod
    def _plain(cls, name: str) -> str:
        return _identifier(name)

    @property
    def raw_column(self) -> str:
        return self.column or self.name


class ClinicalFeature(Frozen):
    """One clinical feature: a number with a unit and range, or a category with its values."""

    name: str
    """Identifier: lower case, digits, underscores."""
    title: str
    """Name for people."""
    type: Literal["number", "category"]
    """Whether it is measured or one of several values."""
    column: str = ""
    """Column of the source; empty, or missing there, means the column named after the feature."""
    unit: str = ""
    """UCUM where there is one, as `a` (years), `mg/L`, `10*9/L`, `Cel`, `mm[Hg]`, `"%"`; empty for
    a category."""
    minimum: float | None = None
    """Smallest possible value, needed of a number; a smaller one counts as unknown."""
    maximum: float | None = None
    """Largest possible value, needed of a number; a larger one counts as unknown."""
    categories: tuple[str, ...] = ()
    """Values of a category in order, as in the manifest; at least two."""
    aliases: dict[str, str] = Field(default_factory=dict)
    """Other spellings in the source or at the command line → the category."""
    limits: Literal["value", "unknown"] = "value"
    """What `<5` and `>89` mean, as laboratories and de-identified ages have them: the limit is the
    `value`, or the value is `unknown`."""
    description: str = ""
    """What people see beside the field of the form."""
    loinc: tuple[str, ...] = Field((), exclude_if=lambda codes: not codes)
    """LOINC codes under which laboratories and monitors report it, for the node beside the PACS;
    values in another unit are converted (UCUM), or left out where they cannot be."""

    def column_in(self, columns: Collection[str]) -> str:
        """Which of a table's columns it is read from; its own name where it has none there."""
        return self.column if self.column in columns else self.name

    @property
    def unit_suffix(self) -> str:
        """The unit after a number, with the space between; empty without a unit."""
        return f" {UNIT_NAMES.get(self.unit, self.unit)}" if self.unit else ""

    @field_validator("name")
    @classmethod
    def _plain(cls, name: str) -> str:
        return _identifier(name)

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.type == "number":
            if self.minimum is None or self.maximum is None or self.minimum >= self.maximum:
                raise ValueError(f"{self.name}: a number needs minimum < maximum")
        elif len(self.categories) < 2:
            raise ValueError(f"{self.name}: a category needs at least two categories")
        if unknown := set(self.aliases.values()) - set(self.categories):
            raise ValueError(f"{self.name}: aliases lead to unknown categories {sorted(unknown)}")
        return self


class NoteSpec(Frozen):
    """Column of the clinical note, and what is masked in it before it is embedded."""

    column: str = "note"
    """Column of the source."""
    mask: tuple[str, ...] = ()
    """Regular expressions (case-insensitive); each match is replaced by `[MASK]`, so that the
    note does not name the finding."""
    loinc: tuple[str, ...] = Field((), exclude_if=lambda codes: not codes)
    """LOINC codes of documents and texts that are such notes, for the node beside the PACS."""

    @field_validator("mask")
    @classmethod
    def _compiles(cls, mask: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in mask:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is no regular expression: {error}") from error
        return mask


class SourceSpec(Frozen):
    """The source that reads the data, and its folder below the data root."""

    kind: SourceKind
    """The layout of the files; docs/tasks.md describes each."""
    folder: str = ""
    """Folder below the data root; a leading `/` makes it absolute."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Further options of this kind of source, which checks them; docs/tasks.md lists them."""
    download: str = ""
    """`kaggle:OWNER/NAME` or `git:URL`: location of the public data set for `cxr-mm fetch`."""
    homepage: str = ""
    """Where the public data set is described."""


class SplitSpec(Frozen):
    """How studies are split; always by group, so that no patient is in two parts.
    Params.yaml may override it (`split`)."""

    protocol: Protocol
    """`patient`: random by group; `official`: the source's own test part, validation carved out
    of train by group; `folds`: cross-validation by group; `sites`: each site is tested by a model
    of the others."""
    val_fraction: float = Field(0.15, gt=0, lt=0.5)
    """Share of the studies that is the validation part (`patient` and `official`)."""
    test_fraction: float = Field(0.2, gt=0, lt=0.5)
    """Share of the studies that is the test part (`patient`)."""
    folds: int = Field(5, ge=3, le=20)
    """Number of folds (`folds` only): each is test once, the next is its validation."""
    repeats: int = Field(1, ge=1, le=20)
    """Number of random divisions into folds (`folds` only). Reports are of the first, with the mean
    over all divisions beside each figure, which depends less on one draw."""


class Population(Frozen):
    """Some of the studies, for which all figures are reported besides those of all."""

    name: str
    """Identifier: lower case, digits, underscores."""
    title: str
    """Name for people, as `not yet in intensive care`."""
    only: dict[str, tuple[str, ...]] = Field(min_length=1)
    """Column of the source → values; a study belongs to it that has one of them in each column. A
    study without a value does not."""

    @field_validator("name")
    @classmethod
    def _plain(cls, name: str) -> str:
        return _identifier(name)


class Task(Frozen):
    """A task: source, findings, clinical features, note, split and limitations.

    Binary tasks have one finding; multiclass tasks two or more, of which exactly one is present;
    multilabel tasks one or more, each present independently of the others.
    """

    name: str
    """Identifier: lower case, digits, underscores; the name of the file."""
    title: str
    """Name for people."""
    problem: Problem
    """`binary` (one finding), `multilabel` (each present or not) or `multiclass` (exactly one of
    several)."""
    findings: tuple[Finding, ...] = Field(min_length=1)
    """What is predicted."""
    source: SourceSpec
    """Where the data is, and how it is read."""
    split: SplitSpec
    """Which studies train, and which test."""
    views: tuple[str, ...] = ()
    """View positions of the studies that are used; empty uses all."""
    ages: tuple[float, float] | None = None
    """Least and greatest age in years of the studies that are used, both included; a study of
    unknown age is then left out. null uses all."""
    first_by: str = ""
    """Column of the source by which the first usable study of each patient is taken, such as a
    date or a follow-up number; empty uses all studies."""
    clinical: tuple[ClinicalFeature, ...] = ()
    """Clinical features; without them the model has no such input."""
    note: NoteSpec | None = None
    """The clinical note; without it the model has no such input."""
    has_image: bool = True
    """Whether studies have an image."""
    populations: tuple[Population, ...] = ()
    """Parts of the studies for which figures are reported as well."""
    minimum_positives: int = Field(0, ge=0)
    """Findings with fewer positives among the ingested studies are left out."""
    group_key: str = "patient_id"
    """Manifest column whose equal values stay in one part of the split."""
    licence: str
    """Of the data, for the model card."""
    citation: str
    """Of the data, for the model card."""
    caveats: tuple[str, ...] = ()
    """Sentences for the model card on what these data cannot show."""
    params: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Parameters of this task alone, over those of params.yaml: section → parameter → value."""

    def spelt_view(self, view: str) -> str:
        """A view as the task and DICOM spell it, whatever its case; one unknown to both stays."""
        spelt = {known.casefold(): known for known in (*VIEWS, *self.views)}
        return spelt.get(view.casefold(), view)

    @field_validator("name")
    @classmethod
    def _plain(cls, name: str) -> str:
        return _identifier(name)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [f.name for f in self.findings]
        features = [c.name for c in self.clinical]
        populations = [p.name for p in self.populations]
        for what, found in (
            ("findings", names),
            ("clinical", features),
            ("populations", populations),
        ):
            if len(set(found)) != len(found):
                raise ValueError(f"{what}: a name occurs twice in {found}")
        if self.problem == "binary" and len(names) != 1:
            raise ValueError("findings: a binary task has exactly one finding")
        if self.problem == "multiclass" and len(names) < 2:
            raise ValueError("findings: a multiclass task has at least two findings")
        if self.minimum_positives and self.problem != "multilabel":
            raise ValueError("minimum_positives: only a multilabel task can leave out findings")
        if self.ages and not 0 <= self.ages[0] <= self.ages[1]:
            raise ValueError("ages: the least and the greatest, in years, as [18, 120]")
        if not self.modalities:
            raise ValueError("a task needs at least one of image, clinical features and note")
        return self

    @property
    def finding_names(self) -> tuple[str, ...]:
        return tuple(f.name for f in self.findings)

    def finding_name(self, name_or_title: str) -> str:
        """Name of the finding that is meant by its name, or by its title in any case.

        Raises:
            InputError: the task has no such finding.
        """
        wanted = name_or_title.casefold()
        for finding in self.findings:
            if name_or_title == finding.name or wanted == finding.title.casefold():
                return finding.name
        known = ", ".join(self.finding_names)
        raise InputError(
            "no such finding",
            field=name_or_title,
            remedy=did_you_mean(name_or_title, self.finding_names, f"This task has {known}"),
        )

    @property
    def clinical_names(self) -> tuple[str, ...]:
        return tuple(c.name for c in self.clinical)

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """Modalities this task can use, in canonical order."""
        has: dict[Modality, bool] = {
            "image": self.has_image,
            "tabular": bool(self.clinical),
            "note": self.note is not None,
        }
        return tuple(m for m, present in has.items() if present)

    def unfiltered(self) -> Self:
        """The task without what its own source alone knows: ages, order of studies, populations."""
        return self.model_copy(update={"ages": None, "first_by": "", "populations": ()})

    @property
    def synthetic(self) -> bool:
        """Whether the data is synthetic, which every page and report then states."""
        return self.source.kind == "synthetic"


def _identifier(name: str) -> str:
    if not NAME.match(name):
        raise ValueError(f"{name!r} must be lower case letters, digits and underscores")
    return name


SHIPPED = Path(str(resources.files("cxr_mm"))) / "tasks"
SUFFIXES = (".yaml", ".yml")
TASKS = Path("tasks")
"""Folder of the user's tasks below the project."""


def shipped_tasks() -> list[str]:
    """Names of the tasks that come with the package."""
    return sorted(file.stem for file in SHIPPED.glob("*.yaml"))


def own_tasks(project: Path = Path()) -> list[str]:
    """Names of the user's tasks, `tasks/NAME.yaml` below the project."""
    return sorted(file.stem for file in (project / TASKS).glob("*.yaml"))


def load_task(name_or_path: str | Path, project: Path = Path()) -> Task:
    """Load a task.

    Args:
        name_or_path: a path to a YAML file; or a name, looked for as `tasks/NAME.yaml` below
            the project, then among the shipped tasks.
        project: the project's folder.

    Raises:
        TaskError: there is no such task, or its file is invalid.
    """
    text = str(name_or_path)
    if text.endswith(SUFFIXES) or "/" in text:
        return _read(Path(text).expanduser())
    own = project / TASKS / f"{text}.yaml"
    if own.is_file():
        return _read(own)
    if text not in shipped_tasks():
        raise TaskError(
            "no such task",
            field=text,
            remedy=did_you_mean(
                text,
                [*own_tasks(project), *shipped_tasks()],
                f"Shipped are {', '.join(shipped_tasks())}; put your own into {own}",
            ),
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
        raise TaskError(f"not YAML: {error}", field=where, remedy="Fix the syntax there") from error
    return task_of(raw, where)


def task_of(raw: Any, where: str = "task") -> Task:
    """Check what a task's YAML file says.

    Args:
        raw: its fields and their values.
        where: how errors call it.

    Raises:
        TaskError: a field is unknown, missing or invalid.
    """
    try:
        return Task.model_validate(raw)
    except ValidationError as error:
        field, message = faults_of(error, Task)
        raise TaskError(
            message,
            field=f"{where}: {field}",
            remedy="See docs/reference/task_file.md, and compare it with"
            f" {SHIPPED / 'pneumonia.yaml'}",
        ) from error
