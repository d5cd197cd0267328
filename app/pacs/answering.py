"""Answering: what the model says of one received image, through the same service as the page."""

import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pydicom.dataset import Dataset

from app.pacs.context.choose import NO_CONTEXT, Context
from app.pacs.objects.result import LONGEST, Region, Result
from app.pacs.stages import UNTIMED, Stages
from app.service import InferenceService, StudySession
from cxr_mm.core.prediction import FindingPrediction
from cxr_mm.core.task import Task
from cxr_mm.data.studies import header_values
from cxr_mm.explain.attribution import Attribution
from cxr_mm.explain.faithfulness.metrics import faithful_methods, is_measured
from cxr_mm.explain.methods import METHODS
from cxr_mm.imaging.geometry import to_image, with_longest
from cxr_mm.imaging.radiograph import DecodedImage
from cxr_mm.models.bundle import Bundle

_log = logging.getLogger(__name__)
STRONG = 0.5
"""Share of the strongest value from which on the image belongs to the region."""
ReadFitted = Callable[[Path, Bundle], DecodedImage]
"""Reads an image as `read_fitted` does, for one bundle."""


@dataclass(frozen=True)
class Answering:
    """Asks the services, by the bundles that rules name.

    Args:
        services: bundle, or pointer to one → its service.
        read: reads images, in a sandboxed process.
        configuration: digest of the rules, so that other rules make other objects.
        stages: times the work.
    """

    services: Mapping[Path, InferenceService]
    read: ReadFitted
    configuration: str
    stages: Stages = UNTIMED

    def model(self, bundle: Path) -> tuple[Task, str]:
        """Task and digest of the model that serves a bundle now."""
        service = self.services[bundle].pinned()
        return service.task, service.digest

    def result(
        self,
        bundle: Path,
        path: Path,
        header: Dataset,
        *,
        picture: bool,
        context: Context = NO_CONTEXT,
    ) -> Result:
        """Answer one image, log the answer, and explain its leading finding.

        Args:
            bundle: that a rule names.
            path: of the image.
            header: of the image; age, sex and view are taken from it.
            picture: whether the image is drawn, alone and with a map over it.
            context: clinical values and note; what the header says of age, sex and view comes
                first.

        Raises:
            InputError: the image cannot be read, or the input gate rejects it.
        """
        service = self.services[bundle].pinned()
        uid = str(header.SOPInstanceUID)
        with self.stages.timed("decode"):
            image = self.read(path, service.bundle)
            study = service.study(
                image.radiograph,
                context.clinical | header_values(service.task, image.radiograph),
                context.note or None,
                study_id=uid,
                patient_id=str(header.get("PatientID") or "") or None,
            )
        with self.stages.timed("answer"):
            session = service.answer(study, image.drawn)
        if session.log_trouble:
            _log.error("%s", session.log_trouble)
        with self.stages.timed("explain"):
            result = self._explained(service, session, header, picture)
        return replace(
            result,
            warnings=(*result.warnings, *context.warnings),
            configuration=_with_context(self.configuration, context),
        )

    def _explained(
        self, service: InferenceService, session: StudySession, header: Dataset, picture: bool
    ) -> Result:
        leading = leading_finding(session.answer.prediction.findings)
        name = service.usual("image")
        outlined = leading.positive and _is_faithful(service, name)
        attribution = None
        if picture or outlined:
            attribution = service.explained(session, leading.finding, name)
        region = None
        if attribution is not None and outlined:
            region = region_of(attribution, leading.finding, header)
        is_map = picture and attribution is not None and not attribution.extra.get("empty")
        title = f"{METHODS[name].title}: {leading.title}. {service.faithfulness_of(name)}"
        return Result(
            answer=session.answer,
            task=service.task,
            digest=service.digest,
            region=region,
            picture=session.image if picture else None,
            map_image=service.drawn(session, attribution) if picture else None,
            map_title=title if is_map else "",
            warnings=session.answer.study.warnings,
            configuration=self.configuration,
        )


def _with_context(configuration: str, context: Context) -> str:
    """Digest of the rules and what else the model got: other context makes other objects."""
    if not context.digest:
        return configuration
    return hashlib.sha256(f"{configuration} {context.digest}".encode()).hexdigest()


def leading_finding(findings: tuple[FindingPrediction, ...]) -> FindingPrediction:
    """The finding that is highest above its operating point, or the likeliest class."""
    return max(findings, key=lambda f: (f.positive, f.probability - (f.threshold or 0.0)))


def region_of(attribution: Attribution, finding: str, header: Dataset) -> Region | None:
    """Outline where an attribution is at least half as strong as anywhere, in stored pixels."""
    shape = (int(header.Rows), int(header.Columns))
    values = to_image(attribution.values, with_longest(shape, min(LONGEST, max(shape))))
    strongest = float(values.max(initial=0.0))
    if strongest <= 0 or attribution.extra.get("empty"):
        return None
    title = METHODS[attribution.method].title
    return Region.of_mask(finding, title, values >= STRONG * strongest, shape)


def _is_faithful(service: InferenceService, name: str) -> bool:
    """Whether it was measured that a method is faithful, with success."""
    figures = service.figures
    return (
        bool(figures.get(name)) and is_measured(figures[name]) and name in faithful_methods(figures)
    )
