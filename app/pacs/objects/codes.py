"""Codes: of DICOM and SNOMED CT where they have one, else of the private scheme 99CXRMM."""

from collections.abc import Mapping
from functools import cache

from highdicom.coding_schemes import CodingSchemeIdentificationItem
from pydicom.sr.coding import Code

from app.pacs.objects.evidence import long_string
from cxr_mm.core.errors import TaskError
from cxr_mm.core.prediction import Certainty, FindingPrediction
from cxr_mm.core.task import Finding, FindingCode, Task, load_task
from cxr_mm.core.types import Modality

PRIVATE = "99CXRMM"
NO_UNITS = Code("1", "UCUM", "no units")
IMAGING_PROCEDURE = Code("363679005", "SCT", "Imaging procedure")
"""The widest of CID 100, which has no radiograph; the study says which one it was."""
ENGLISH = Code("en-US", "RFC5646", "English (United States)")
PROCEDURE_REPORTED = Code("121058", "DCM", "Procedure reported")
COMMENT = Code("121106", "DCM", "Comment")
QUALITATIVE_EVALUATIONS = Code("C0034375", "UMLS", "Qualitative Evaluations")
REPORT = Code("126000", "DCM", "Imaging Measurement Report")
DEVICE = Code("121007", "DCM", "Device")

PROBABILITY = Code("122157", "DCM", "Probability")
THRESHOLD = Code("operating_point", PRIVATE, "Operating point (threshold)")
PRESENCE = Code("121052", "DCM", "Presence of property")
DECISION = Code("decision", PRIVATE, "Decision at the operating point")
CLASS_DECISION = Code("likeliest_class", PRIVATE, "Likeliest class")
INPUT = Code("input", PRIVATE, "Input used")
ANALYSIS = Code("analysis", PRIVATE, "Analysis")
NOT_ANALYSED = Code("not_analysed", PRIVATE, "Not analysed")
INFLUENCE = Code("influence", PRIVATE, "Region of strongest influence")
SPATIAL = Code("309825002", "SCT", "Spatial and relational concept")
"""Of CID 7150: the region is no anatomy and no finding."""
ARTIFICIAL_INTELLIGENCE = Code("123109", "DCM", "Artificial Intelligence")

PRESENCES: Mapping[Certainty, Code] = {
    "present": Code("52101004", "SCT", "Present"),
    "absent": Code("272519000", "SCT", "Absent"),
    "uncertain": Code("373068000", "SCT", "Undetermined"),
}
"""CID 240."""
DECISIONS = {
    True: Code("10828004", "SCT", "Positive"),
    False: Code("260385009", "SCT", "Negative"),
}
INPUTS: Mapping[Modality, Code] = {
    "image": Code("image", PRIVATE, "Image"),
    "tabular": Code("clinical", PRIVATE, "Clinical values"),
    "note": Code("note", PRIVATE, "Clinical note"),
}


def finding_code(task: Task, name: str) -> Code:
    """The code of a finding: of the task, of the task file of that name, else a private one.

    The task of a model is that of its bundle, and bundles from before codes have none.
    """
    finding = next((f for f in task.findings if f.name == name), Finding(name=name, title=name))
    known = finding.code or _codes_of_file(task.name).get(name)
    if known is not None:
        return Code(known.value, known.scheme, known.meaning)
    return Code(f"{task.name}.{name}", PRIVATE, long_string(finding.title))


@cache
def _codes_of_file(task: str) -> Mapping[str, FindingCode]:
    try:
        findings = load_task(task).findings
    except TaskError:
        return {}
    return {f.name: f.code for f in findings if f.code is not None}


def presence(finding: FindingPrediction) -> Code:
    """Present, absent or undetermined: of the conformal set, or of the decision without one."""
    decided: Certainty = "present" if finding.positive else "absent"
    return PRESENCES[finding.certainty or decided]


def private_scheme() -> CodingSchemeIdentificationItem:
    """What the private scheme is, for whoever meets its designator."""
    return CodingSchemeIdentificationItem(
        designator=PRIVATE, name="cxr-mm: findings, inputs and decisions"
    )
