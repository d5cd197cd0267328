"""Parts: what can be measured and by what, in the page's order; imported only when asked for."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

from cxr_mm.core.types import Frozen


class Row(Frozen):
    """One measured figure.

    `value` is in the metric's own unit; `ci95` over patients where it is a metric of studies.
    """

    table: str
    """The part's name, or a name of its own for one of several tables of a part."""
    task: str
    row: str
    metric: str
    value: float
    ci95: tuple[float, float] | None = None
    reference: float | None = None
    """What it is to be compared with, which the part's `compare` names; 0 for a difference."""
    claimed: float | None = None
    """What others reported."""
    must: float | None = None
    aim: float | None = None
    ceiling: bool = False
    """`must` and `aim` are the most, not the least, that the value may be."""
    n: int
    seed: int | None = None
    seconds: float | None = None
    device: str = "cpu"
    command: str
    """`make benchmark PART=NAME`, which also says to which part the row belongs."""

    @property
    def met(self) -> bool | None:
        """Whether the value is what it must be; None where nothing is asked of it."""
        if self.must is None:
            return None
        return self.value <= self.must if self.ceiling else self.value >= self.must

    @property
    def is_significant(self) -> bool:
        """Whether it is a difference (`reference` 0) whose interval excludes zero."""
        return (
            self.reference == 0 and self.ci95 is not None and not self.ci95[0] <= 0 <= self.ci95[1]
        )


COMMAND = re.compile(r"\bPART=([\w-]+)")


@dataclass(frozen=True)
class Part:
    """One thing that is measured by one command.

    Args:
        measure: `module:function` below `benchmarks`; the function takes nothing and returns rows.
        about: what is measured and against what, a sentence or two; stands on the page.
        takes: about how long, on two processor cores.
        compare: heading of the column of `Row.reference`.
        run_by_default: whether it is measured where no part is named.
    """

    measure: str
    about: str
    takes: str
    compare: str = "compare with"
    run_by_default: bool = True

    def load(self) -> Callable[[], list[Row]]:
        """The function, its module imported now."""
        module, _, function = self.measure.partition(":")
        found: Callable[[], list[Row]] = getattr(import_module(f"benchmarks.{module}"), function)
        return found


PARTS = {
    "tasks": Part(
        "accuracy.tasks:measure",
        "What `dvc repro` reached on held-out studies with the shipped defaults. The floor is a "
        "frozen ImageNet `tf_efficientnet_lite0` (for the note, MiniLM) with logistic regression "
        "under the same protocol, one run each. `fused` is the prediction from whatever a study "
        "has; `best single` the modality of highest AUC on these very studies.",
        "seconds, from reports/ (run `dvc repro` first)",
        compare="floor",
    ),
    "earlier": Part(
        "accuracy.prior_systems:measure",
        "Four earlier single-notebook systems, each by configuration alone on the nearest data "
        "there is: what it claimed, what its recipe gives here, and what the shipped defaults give "
        "(`ours`). Pretrained weights are those that come as Python packages; an architecture that "
        "has none is trained from scratch, small and short enough for two cores, as its row says.",
        "25 minutes",
        compare="ours",
    ),
    "earlier-hub": Part(
        "accuracy.prior_systems:measure_hub",
        "The same systems at full size with the pretrained weights of their own architectures.",
        "hours, or minutes on a GPU; needs a model hub",
        compare="ours",
        run_by_default=False,
    ),
    "ablation": Part(
        "accuracy.ablation:measure",
        "One change at a time from the shipped default of a task. Gains are paired with the "
        "default on the same studies; one whose interval excludes zero is in bold.",
        "half a minute a row, 45 rows",
    ),
    "ablation-training": Part(
        "accuracy.ablation:measure_training",
        "The same for the tasks whose encoder learns. Another seed shows how much of a gain is "
        "chance.",
        "25 minutes a row, 27 rows; much less on a GPU",
        run_by_default=False,
    ),
    "fusion": Part(
        "accuracy.fusion:measure",
        "One fused model for every subset of modalities, by cross-validation over patients. The "
        "specialist is the better of two (`late`, `concat`) trained for one subset alone on the "
        "same folds; gains and differences are paired on the same studies, and one whose interval "
        "excludes zero is in bold. The second table has every kind of fusion and every baseline: "
        "logistic regression on zero-filled and on mean-filled vectors, calibrated single "
        "modalities averaged, gradient-boosted trees. Calibration errors are biased upward where "
        "studies are few.",
        "10 minutes for a thousand studies, from data/ (run `dvc repro` first)",
        compare="of zero",
    ),
    "outside": Part(
        "accuracy.external:measure",
        "The `pneumonia` bundle, trained on children of one to five at one hospital, on the NIH "
        "images of adults: pneumonia against no finding, both as a program read them off reports. "
        "Recalibration is cross-validated by patient. What it cannot fix is an AUC at or below "
        "0.5: there a calibrated answer is the prevalence and nothing more. What it can fix show "
        "the rows of `synthetic`: made-up studies with findings half as common as in training.",
        "3 minutes, with the bundles of `pneumonia` and `synthetic` (run `dvc repro` first)",
        compare="own test",
    ),
    "input_gate": Part(
        "accuracy.input_gate:measure",
        "How often the input gate refuses, or at least warns: of images of patients it has not "
        "seen, and of pictures that are no upright frontal chest radiograph. Another task's images "
        "are images too, of other patients and hospitals. Laterals, hands and other views are "
        "not measured: none comes with an installed package.",
        "2 minutes a task, from data/ and models/ (run `dvc repro` first)",
    ),
    "speed": Part(
        "system.speed:measure",
        "The whole path as a ratio to the bare network in the same precision and memory order on "
        "tensors that lie in memory, in turn in one run. Training: pixel cache, augmentation, "
        "Lightning and optimiser against forward and backward, augmentation as named. Scoring: "
        "probabilities of a pixel cache, and `cxr-mm score` on PNG files, against the forward of "
        "the image encoder. One prediction: study to prediction against the forward of every "
        "network it needs; from a file, reading and checking the image too.",
        "8 minutes",
    ),
    "explain": Part(
        "explanations.speed:measure",
        "How long one explanation takes, as a median over studies; where a library has a stock "
        "call for it, how many times as fast it is, and whether it is as good: the linear model "
        "of LIME on coalitions that it has not seen, the order of SHAP by insertion. Both are "
        "given the same model, the stock call as it serves one prediction.",
        "10 minutes, from data/ and models/ (run `dvc repro` first)",
        compare="stock",
    ),
    "faithfulness": Part(
        "explanations.faithfulness:measure",
        "How far each method of explanation is faithful, on held-out studies. `gain`, the mean "
        "of `deletion` and `insertion`: logits by which its order beats a random one. `noise`, "
        "`seeds`, `weights shuffled`: rank correlation with the explanation of a slightly "
        "disturbed study, of another draw, and of a model whose weights have lost their places.",
        "10 minutes a task, from data/ and models/ (run `dvc repro` first)",
        compare="of zero",
    ),
    "precision": Part(
        "system.speed:measure_precision",
        "What the automatic choice of precision and memory order brings, as a ratio to plain "
        "fp32: channels first, which is what a network does when no one chooses.",
        "3 minutes",
    ),
    "memory": Part(
        "system.memory:measure",
        "Peak resident memory of `cxr-mm score` in a process of its own, on a long manifest as a "
        "multiple of that on a short one. The network is tiny and the images are few and small, "
        "named again and again: what is kept of rows and answers does not depend on either.",
        "2 minutes",
    ),
    "load": Part(
        "system.load:measure",
        "The page's server on loopback: users at once through Gradio's client, each with a study "
        "of their own, one of them asking for LIME all the while. The time of a prediction is what "
        "a user waits for, upload and queue included.",
        "6 minutes, from models/ (run `dvc repro` first)",
    ),
    "drift": Part(
        "system.drift:measure",
        "Monitoring on simulated streams: how often windows without any drift alarm (interval over "
        "references), and of shifts of known kind and size the share of streams that alarm in the "
        "first window and within two (of the concept, with half of the labels, within five), "
        "windows until the alarm, and the share of first alarms that blame the shift. The second "
        "table has Evidently's DataDriftPreset at its defaults on the same kind of windows.",
        "half an hour a task, from models/ and data/ (run `dvc repro` first)",
    ),
    "drift-real": Part(
        "system.drift:measure_real",
        "A real change of patients and site: a reference of adults (NIH), windows of children "
        "(Guangzhou), and the reverse; images alone, since that is what both have. Shares of "
        "windows that alarm, and what is blamed first most often.",
        "10 minutes, with the bundles of `effusion` and `pneumonia` (run `dvc repro` first)",
    ),
    "scale": Part(
        "system.memory:measure_scale",
        "A monitoring report, in a process of its own, on windows of up to a million made-up "
        "records with a hundred checks: counts are of all of them, tests of 4,000 of them.",
        "20 minutes, most of it to write the records; 8 GB of disk",
    ),
    "repro": Part(
        "system.repro:measure",
        "`dvc repro` in a clone of the last commit, on a small synthetic task with the shipped "
        "parameters, as a share of the first run of all stages.",
        "8 minutes; needs a git checkout",
    ),
}


def part_of(command: str) -> str:
    """The part that a row's command names; empty where it names none."""
    found = COMMAND.search(command)
    return found.group(1) if found else ""
