"""Stage `split`: studies → train, validation and test, folds, or sites; always by group.

Greedy stratification of groups, rarest label first (Sechidis et al., On the stratification of
multi-label data, ECML PKDD 2011).
"""

from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxr_mm.core.config import Params
from cxr_mm.core.errors import StageError
from cxr_mm.core.files import atomic_directory, write_json, write_parquet
from cxr_mm.core.paths import TaskPaths
from cxr_mm.core.task import SplitSpec, Task
from cxr_mm.core.types import plural
from cxr_mm.data.additions import ADDED
from cxr_mm.data.leakage import SITE, audit, merged_groups, near_pairs
from cxr_mm.data.manifest import Manifest, load_manifest, load_quality
from cxr_mm.data.pixel_cache import open_pixels

TABLE, AUDIT = "split.parquet", "audit.json"


@dataclass(frozen=True)
class Resample:
    """Row positions in the manifest of one training, its validation and its test."""

    fold: int
    train: NDArray[np.int64]
    val: NDArray[np.int64]
    test: NDArray[np.int64]


def split(task: Task, params: Params, paths: TaskPaths) -> None:
    """Split the studies and audit the split; writes split.parquet and audit.json.

    Raises:
        StageError: `ingest` has not run, or there are too few groups or labels to divide.
    """
    manifest, quality = load_manifest(paths, task), load_quality(paths)
    near = near_pairs(manifest, quality, open_pixels(paths.pixels))
    same, files = near.rows[near.same_image], quality["file_sha256"]
    table = divide_all(manifest, files, same, task.split, params.split.seed)
    report = audit(manifest, table, files, near)
    with atomic_directory(paths.split) as folder:
        write_json(folder / AUDIT, {"protocol": task.split.protocol, **report})
        write_parquet(folder / TABLE, table)


def load_split(paths: TaskPaths) -> pd.DataFrame:
    """Load the table that `split` wrote, rows as in the manifest.

    Raises:
        StageError: `split` has not run for this task.
    """
    try:
        return pd.read_parquet(paths.split / TABLE)
    except (OSError, ValueError) as error:
        raise StageError(
            "missing or not readable",
            field=str(paths.split / TABLE),
            remedy="Run the stage `split` first",
        ) from error


def divisions(table: pd.DataFrame) -> int:
    """Number of random divisions in a table of `load_split`."""
    number = 1
    while _fold_column(number + 1) in table:
        number += 1
    return number


def _fold_column(division: int) -> str:
    return "fold" if division == 1 else f"fold.{division}"


def resamples(table: pd.DataFrame, division: int = 1) -> list[Resample]:
    """The resamples of a split: one, or one per fold.

    With folds, fold k is test, the next one validation, and the others train; additions always
    train. With sites, site k is test and the others train, without groups that share an image with
    it; no validation part is left, so that two sites suffice.

    Args:
        table: of `load_split`.
        division: number of the division into folds, from 1.
    """
    part, fold = table["part"].to_numpy(), table[_fold_column(division)].to_numpy()
    if (part != "").all():
        train, val, test = (np.flatnonzero(part == name) for name in ("train", "val", "test"))
        return [Resample(0, train, val, test)]
    count = int(fold.max()) + 1
    if SITE in table:
        return [_without_site(table, k) for k in range(count)]
    result = []
    for k in range(count):
        test, val = fold == k, fold == (k + 1) % count
        rows = [np.flatnonzero(chosen) for chosen in (~(test | val), val, test)]
        result.append(Resample(k, *rows))
    return result


def _without_site(table: pd.DataFrame, number: int) -> Resample:
    test = table["fold"].eq(number)
    shared = table["group"].isin(table.loc[test, "group"])
    none = np.zeros(0, np.int64)
    return Resample(number, np.flatnonzero(~shared), none, np.flatnonzero(test))


def divide_all(
    manifest: Manifest,
    file_sha256: "pd.Series[str]",
    same: NDArray[np.int64],
    spec: SplitSpec,
    seed: int,
) -> pd.DataFrame:
    """The table of `divide`, with a column `fold.2` and so on for each further division.

    Only folds are divided more than once.
    """
    table = divide(manifest, file_sha256, same, spec, seed)
    repeats = spec.repeats if spec.protocol == "folds" else 1
    for number in range(2, repeats + 1):
        again = divide(manifest, file_sha256, same, spec, seed + number - 1)
        table[_fold_column(number)] = again["fold"]
    return table


def divide(
    manifest: Manifest,
    file_sha256: "pd.Series[str]",
    same: NDArray[np.int64],
    spec: SplitSpec,
    seed: int,
) -> pd.DataFrame:
    """Divide the studies by the task's protocol.

    Groups that share an image are first merged, so that no image is in two parts; the official
    test part does not change; the audit reports what it shares with the others.

    Args:
        manifest: the studies.
        file_sha256: digest of each study's image, empty without one.
        same: (P, 2) pairs of rows with the same image in different files.
        spec: the protocol and its fractions.
        seed: breaks ties.

    Returns:
        `study_id`, `group` (as merged), `part` (train, val, test; empty with folds and sites),
        `fold` (0; with folds and sites the one in which the study is tested, -1 for an addition),
        and with sites `site`; rows as in the manifest.

    Raises:
        StageError: too few groups, a part without a positive or negative study of a finding, an
            official split that the source does not have or that divides a group, fewer than two
            sites, or a study without one.
    """
    frame, rng = manifest.frame, np.random.default_rng(seed)
    group = frame["group"].astype(object)
    added = frame["part"].eq(ADDED).to_numpy(bool)
    free = ~added
    part = np.where(added, "train", "").astype(object)
    if spec.protocol == "official":
        train = _official_train(frame.assign(part=frame["part"].mask(added, "train")))
        free &= train
        part[~train] = "test"
        names, fractions = ["train", "val"], [1 - spec.val_fraction, spec.val_fraction]
    elif spec.protocol == "patient":
        names = ["train", "val", "test"]
        fractions = [1 - spec.val_fraction - spec.test_fraction]
        fractions += [spec.val_fraction, spec.test_fraction]
    else:
        names, fractions = [], [1 / spec.folds] * spec.folds
    position = np.cumsum(free) - 1
    inside = position[same[free[same].all(axis=1)]]
    group[free] = merged_groups(group[free], file_sha256[free], inside)
    if spec.protocol == "sites":
        codes = _site_codes(frame["site"][free])
    else:
        codes = assign(group[free], _strata(manifest)[free], np.asarray(fractions), rng)
    fold = np.zeros(len(frame), np.int64)
    if names:
        part[free] = np.asarray(names, dtype=object)[codes]
    else:
        fold[free], fold[added] = codes, -1
    table = pd.DataFrame(
        {"study_id": frame["study_id"], "group": group, "part": part, "fold": fold}
    )
    if spec.protocol == "sites":
        table[SITE] = frame["site"]
    _check(manifest, table)
    return table


def _site_codes(site: "pd.Series[str]") -> NDArray[np.int64]:
    """Number (N,) of each study's site, in the order in which they come."""
    if unknown := int(site.isna().sum()):
        raise StageError(
            f"{plural(unknown, 'study')} without a site",
            field="site",
            remedy="Give each study its site, or set split.protocol to folds in the task",
        )
    codes, names = pd.factorize(site)
    if len(names) < 2:
        raise StageError(
            f"all studies are of one site, {names[0]!r}, so that none can be left out",
            field="site",
            remedy="Merge a source of another site, or set split.protocol to folds in the task",
        )
    return codes.astype(np.int64)


def assign(
    group: "pd.Series[str]",
    strata: NDArray[np.float64],
    fractions: NDArray[np.float64],
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Assign each group to the part that most needs its strata.

    Args:
        group: (N,).
        strata: (N, C) counts per study, to be spread evenly.
        fractions: (K,) share of the studies that each part should get.
        rng: order of groups that are equally rare.

    Returns:
        (N,) part of each study, 0 to K - 1, equal within a group.

    Raises:
        StageError: fewer groups than parts.
    """
    codes, names = pd.factorize(group, sort=True)
    if len(names) < len(fractions):
        raise StageError(
            f"{len(names)} groups cannot be divided into {len(fractions)} parts",
            field="split",
            remedy="Collect more patients, or set fewer split.folds in the task",
        )
    counts = np.zeros((len(names), strata.shape[1]))
    np.add.at(counts, codes, strata)
    share = counts / np.maximum(counts.sum(axis=0), 1)
    waiting = (share > 0).sum(axis=0)
    order = rng.permutation(len(names))
    order = order[np.argsort(-share[order].max(axis=1), kind="stable")]
    given = np.zeros((len(fractions), strata.shape[1]))
    chosen = np.zeros(len(names), np.int64)
    for g in order:
        chosen[g] = _neediest(share[g], given, fractions, waiting)
        given[chosen[g]] += share[g]
        waiting -= share[g] > 0
    return chosen[codes]


def _neediest(
    share: NDArray[np.float64],
    given: NDArray[np.float64],
    fractions: NDArray[np.float64],
    waiting: NDArray[np.int64],
) -> int:
    """The part that stays closest to its fraction of the groups assigned so far.

    Distance as in chi-square: squared difference over fraction, summed over strata. If only as many
    groups with a stratum are left as parts without it, such a part comes first.
    """
    expected = fractions[:, None] * (given.sum(axis=0) + share)
    cost = (share * (2 * (given - expected) + share)).sum(axis=1) / fractions
    empty = given == 0
    urgent = (share > 0) & (waiting <= empty.sum(axis=0))
    need = (empty & urgent).sum(axis=1)
    return int(np.lexsort((cost, -need))[0])


def _strata(manifest: Manifest) -> NDArray[np.float64]:
    """Studies, positives and negatives of each finding, and modalities: (N, C) of 0 and 1."""
    labels = manifest.labels()
    one = np.ones((len(manifest), 1))
    return np.hstack((one, labels == 1, labels == 0, manifest.mask())).astype(np.float64)


def _official_train(frame: pd.DataFrame) -> NDArray[np.bool_]:
    """Rows outside the official test part."""
    part = frame["part"]
    if not part.isin(["train", "val", "test"]).all():
        raise StageError(
            "some studies have no official part",
            field="part",
            remedy="Give each study train or test, or set split.protocol to patient in the task",
        )
    test = part.eq("test").to_numpy()
    if both := set(frame["group"][test]) & set(frame["group"][~test]):
        raise StageError(
            f"{len(both)} groups are in the official train and test parts, as {min(both)!r}",
            field="group",
            remedy="Set split.protocol to patient in the task, or another group_key",
        )
    return ~test


def _check(manifest: Manifest, table: pd.DataFrame) -> None:
    """Require a positive and a negative study of every finding in every part."""
    labels, by_site = manifest.labels(), SITE in table
    # Of sites the fault is in the one that lacks a class, before it is in what the others train on.
    parts = ("test", "train") if by_site else ("train", "val", "test")
    for part, one in product(parts, resamples(table)):
        rows = labels[getattr(one, part)]
        where = f"site {table[SITE].iloc[one.test[0]]}" if by_site else f"fold {one.fold}"
        for i, name in enumerate(manifest.task.finding_names):
            for value, word in ((1, "positive"), (0, "negative")):
                if not (rows[:, i] == value).any():
                    raise StageError(
                        f"no {word} study of {name} in {part} ({where})",
                        field="split",
                        remedy="Collect more studies, or change the task's split",
                    )


def group_folds(
    labels: NDArray[np.float32], groups: NDArray[np.object_], count: int, seed: int, field: str
) -> NDArray[np.int64]:
    """Fold (N,) of each row, groups kept whole and label patterns spread evenly.

    Args:
        labels: (N, F) 1, 0 or NaN.
        groups: (N,) equal values stay in one fold.
        count: number of folds.
        seed: for the shuffle.
        field: name of the parameter, for the error.

    Raises:
        StageError: there are fewer groups than folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold  # slow to import

    if len(set(groups)) < count:
        raise StageError(
            f"{len(set(groups))} groups among the training rows cannot fill {count} folds",
            field=field,
            remedy="Take fewer folds",
        )
    folds = np.zeros(len(labels), dtype=np.int64)
    splitter = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    strata = _cross_fit_strata(labels, count)
    for fold, (_, inside) in enumerate(splitter.split(labels, strata, groups)):
        folds[inside] = fold
    return folds


def _cross_fit_strata(labels: NDArray[np.float32], least: int) -> NDArray[np.int64]:
    """Label patterns as numbers; those too rare for every fold join the most common."""
    _, pattern, counts = np.unique(
        np.nan_to_num(labels, nan=2.0), axis=0, return_inverse=True, return_counts=True
    )
    rare = counts[pattern] < least
    return np.where(rare, counts.argmax(), pattern).astype(np.int64)
