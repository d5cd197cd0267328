"""Evidence: everything that a model card and its flags are written from, as the files hold it."""

from dataclasses import dataclass, field
from typing import Any

from cxr_mm.contracts.task import Task
from cxr_mm.models.bundle_files import BundleIndex
from cxr_mm.params import EvaluateParams

Figures = dict[str, Any]


@dataclass(frozen=True)
class Evidence:
    """Figures and facts of one task.

    Args:
        task: the question, with the split that was used.
        index: of the bundle that was evaluated.
        metrics, subgroups, shortcuts, comparisons: what `evaluate` leaves under these names.
        ingest: report of what was left out of the source.
        audit: what the parts of the split share.
        params: of the stage evaluate.
        digests: file → sha256, of what the figures were measured on.
        faithfulness: what `explain` left of this bundle; empty where it has not run.
    """

    task: Task
    index: BundleIndex
    metrics: Figures
    subgroups: Figures
    shortcuts: Figures
    comparisons: Figures
    ingest: Figures
    audit: Figures
    params: EvaluateParams
    digests: dict[str, str]
    faithfulness: Figures = field(default_factory=dict)

    def title(self, finding: str) -> str:
        """A finding as a clinician would write it."""
        return next(f.title for f in self.task.findings if f.name == finding)

    def figures(self, subset: str) -> Figures:
        """Figures of each finding in one subset of modalities, empty where it was not measured."""
        found: Figures = self.metrics["subsets"].get(subset, {}).get("findings", {})
        return found
