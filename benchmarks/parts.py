"""Parts: what can be measured and by what, in the page's order; imported only when asked for."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

from benchmarks.rows import Row

COMMAND = re.compile(r"\bPART=([\w-]+)")


@dataclass(frozen=True)
class Part:
    """One thing that is measured by one command.

    Args:
        measure: `module:function` below `benchmarks`; the function takes nothing and returns rows.
        about: what is measured and against what, a sentence or two; stands on the page.
        takes: about how long, on two processor cores.
        compare: heading of the column of `Row.reference`.
        unasked: whether it is measured where no part is named.
    """

    measure: str
    about: str
    takes: str
    compare: str = "compare with"
    unasked: bool = True

    def load(self) -> Callable[[], list[Row]]:
        """The function, its module imported now."""
        module, _, function = self.measure.partition(":")
        found: Callable[[], list[Row]] = getattr(import_module(f"benchmarks.{module}"), function)
        return found


PARTS = {
    "tasks": Part(
        "tasks:measure",
        "What `dvc repro` reached on held-out studies with the shipped defaults. The floor is a "
        "frozen ImageNet `tf_efficientnet_lite0` (for the note, MiniLM) with logistic regression "
        "under the same protocol, one run each. `fused` is the prediction from whatever a study "
        "has; `best single` the modality of highest AUC on these very studies.",
        "seconds, from reports/ (run `dvc repro` first)",
        compare="floor",
    ),
    "earlier": Part(
        "earlier:measure",
        "Four earlier single-notebook systems, each by configuration alone on the nearest data "
        "there is: what it claimed, what its recipe gives here, and what the shipped defaults give "
        "(`ours`). Pretrained weights are those that come as Python packages; an architecture that "
        "has none is trained from scratch, small and short enough for two cores, as its row says.",
        "25 minutes",
        compare="ours",
    ),
    "earlier-hub": Part(
        "earlier:measure_hub",
        "The same systems at full size with the pretrained weights of their own architectures.",
        "hours, or minutes on a GPU; needs a model hub",
        compare="ours",
        unasked=False,
    ),
    "ablation": Part(
        "ablation:measure",
        "One change at a time from the shipped default of a task. Gains are paired with the "
        "default on the same studies; one whose interval excludes zero is in bold.",
        "half a minute a row, 45 rows",
    ),
    "ablation-training": Part(
        "ablation:measure_training",
        "The same for the tasks whose encoder learns. Another seed shows how much of a gain is "
        "chance.",
        "25 minutes a row, 27 rows; much less on a GPU",
        unasked=False,
    ),
    "fusion": Part(
        "fusion:measure",
        "One fused model for every subset of modalities, by cross-validation over patients. The "
        "specialist is the better of two (`late`, `concat`) trained for one subset alone on the "
        "same folds; gains and differences are paired on the same studies, and one whose interval "
        "excludes zero is in bold. The second table has every kind of fusion and every rival: "
        "logistic regression on zero-filled and on mean-filled vectors, calibrated single "
        "modalities averaged, gradient-boosted trees. Calibration errors are biased upward where "
        "studies are few.",
        "10 minutes for a thousand studies, from data/ (run `dvc repro` first)",
        compare="of zero",
    ),
    "outside": Part(
        "outside:measure",
        "The `pneumonia` bundle, trained on children of one to five at one hospital, on the NIH "
        "films of adults: pneumonia against no finding, both as a program read them off reports. "
        "Recalibration is cross-validated by patient. What it cannot mend is an AUC at or below "
        "0.5: there a calibrated answer is the prevalence and nothing more. What it can mend show "
        "the rows of `synthetic`: made-up studies with findings half as common as in training.",
        "3 minutes, with the bundles of `pneumonia` and `synthetic` (run `dvc repro` first)",
        compare="own test",
    ),
    "film_gate": Part(
        "film_gate:measure",
        "How often the film gate refuses, or at least warns: of films of patients that it has not "
        "seen, and of pictures that are no upright frontal chest radiograph. Another task's films "
        "are films too, of other patients and hospitals. Laterals, hands and other radiographs are "
        "not measured: none comes with an installed package.",
        "2 minutes a task, from data/ and models/ (run `dvc repro` first)",
    ),
    "speed": Part(
        "speed:measure",
        "The whole path as a ratio to the bare network in the same precision and memory order on "
        "tensors that lie in memory, in turn in one run. Training: pixel cache, augmentation, "
        "Lightning and optimiser against forward and backward, augmentation as named. Scoring: "
        "probabilities of a pixel cache, and `cxr-mm score` on PNG files, against the forward of "
        "the image encoder. One prediction: study to prediction against the forward of every "
        "network it needs; from a file, reading and checking the film too.",
        "8 minutes",
    ),
    "explain": Part(
        "explanations:measure",
        "How long one explanation takes, as a median over studies; where a library has a stock "
        "call for it, how many times as fast it is, and whether it is as good: the linear model "
        "of LIME on coalitions that it has not seen, the order of SHAP by insertion. Both are "
        "given the same model, the stock call as it serves one prediction.",
        "10 minutes, from data/ and models/ (run `dvc repro` first)",
        compare="stock",
    ),
    "faithfulness": Part(
        "faithfulness:measure",
        "How far each method of explanation can be believed, on held-out studies. `gain`, the mean "
        "of `deletion` and `insertion`: logits by which its order beats a random one. `noise`, "
        "`seeds`, `weights shuffled`: rank correlation with the explanation of a slightly "
        "disturbed study, of another draw, and of a model whose weights have lost their places.",
        "10 minutes a task, from data/ and models/ (run `dvc repro` first)",
        compare="of zero",
    ),
    "precision": Part(
        "precision:measure",
        "What the automatic choice of precision and memory order brings, as a ratio to plain "
        "fp32: channels first, which is what a network does when nobody chooses.",
        "3 minutes",
    ),
    "memory": Part(
        "memory:measure",
        "Peak resident memory of `cxr-mm score` in a process of its own, on a long manifest as a "
        "multiple of that on a short one. The network is tiny and the films are few and small, "
        "named again and again: what is kept of rows and answers does not depend on either.",
        "2 minutes",
    ),
    "load": Part(
        "load:measure",
        "The page's server on loopback: users at once through Gradio's client, each with a study "
        "of their own, one of them asking for LIME all the while. The time of a prediction is what "
        "a user waits for, upload and queue included.",
        "6 minutes, from models/ (run `dvc repro` first)",
    ),
    "drift": Part(
        "drift:measure",
        "Monitoring on simulated streams: how often windows without any drift alarm (interval over "
        "references), and of shifts of known kind and size the share of streams that alarm in the "
        "first window and within two (of the concept, with half of the labels, within five), "
        "windows until the alarm, and the share of first alarms that blame the shift. The second "
        "table has Evidently's DataDriftPreset at its defaults on the same kind of windows.",
        "half an hour a task, from models/ and data/ (run `dvc repro` first)",
    ),
    "drift-real": Part(
        "drift_real:measure",
        "A real change of patients and site: a reference of adults (NIH), windows of children "
        "(Guangzhou), and the reverse; films alone, since that is what both have. Shares of "
        "windows that alarm, and what is blamed first most often.",
        "10 minutes, with the bundles of `effusion` and `pneumonia` (run `dvc repro` first)",
    ),
    "scale": Part(
        "scale:measure",
        "A monitoring report, in a process of its own, on windows of up to a million made-up "
        "records with a hundred checks: counts are of all of them, tests of 4,000 of them.",
        "20 minutes, most of it to write the records; 8 GB of disk",
    ),
    "repro": Part(
        "repro:measure",
        "`dvc repro` in a clone of the last commit, on a small synthetic task with the shipped "
        "parameters, as a share of the first run of all stages.",
        "8 minutes; needs a git checkout",
    ),
}


def part_of(command: str) -> str:
    """The part that a row's command names; empty where it names none."""
    found = COMMAND.search(command)
    return found.group(1) if found else ""
