"""Leakage audit: duplicate images, and ids and images that the parts of a split share.

Candidates have similar perceptual hashes (Zauner, Implementation and benchmarking of perceptual
image hash functions, 2010); chest radiographs look alike, so only those whose pixels also agree
count as the same image.
"""

from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from cxr_mm.data.manifest import Manifest

SAME_IMAGE = 0.99
"""Correlation of two small copies from which they are one image. Measured on three public sets:
re-encoded copies reach 0.9999, no other two of 6,919 images exceed 0.975."""
SITE = "site"
"""Column of a split by sites alone: the site of each study."""
THUMBNAIL = 32
LISTED = 50
"""Pairs named in the report."""
BLOCK = 1024


@dataclass(frozen=True)
class NearPairs:
    """Pairs of studies in different groups whose images have similar perceptual hashes.

    Args:
        rows: (P, 2) rows of the manifest, first < second.
        distance: (P,) bits in which the hashes differ.
        correlation: (P,) of the pixels of small copies.
    """

    rows: NDArray[np.int64]
    distance: NDArray[np.int64]
    correlation: NDArray[np.float64]

    @property
    def same_image(self) -> NDArray[np.bool_]:
        """(P,) whether the two are one image, re-encoded or resized."""
        return self.correlation >= SAME_IMAGE


NEAR_DUPLICATE_BITS = 4
"""Two images whose 64-bit perceptual hashes differ in at most this many bits are compared."""


def near_pairs(
    manifest: Manifest,
    quality: pd.DataFrame,
    pixels: NDArray[np.uint8],
    bits: int = NEAR_DUPLICATE_BITS,
) -> NearPairs:
    """Find the same image in different groups, except byte-identical files.

    Args:
        manifest: the studies.
        quality: rows as in the manifest: `file_sha256` and `phash`, empty without an image.
        pixels: the pixel cache, uint8 (N, S, S).
        bits: largest distance between two perceptual hashes.
    """
    images = np.flatnonzero(quality["phash"].to_numpy() != "")
    phash = np.asarray([int(text, 16) for text in quality["phash"].iloc[images]], np.uint64)
    digest = pd.factorize(quality["file_sha256"].iloc[images])[0]
    group = pd.factorize(manifest.frame["group"].iloc[images])[0]
    pairs = [np.zeros((0, 3), np.int64)]
    for start in range(0, len(images), BLOCK):
        rows, later = slice(start, start + BLOCK), slice(start, None)
        distance = np.bitwise_count(phash[rows, None] ^ phash[None, later])
        near = (distance <= bits) & (group[rows, None] != group[None, later])
        near &= digest[rows, None] != digest[None, later]
        i, j = np.nonzero(np.triu(near))
        pairs.append(np.stack((images[start + i], images[start + j], distance[i, j]), axis=1))
    result = np.concatenate(pairs)
    pixel_row = manifest.frame["pixel_row"].to_numpy()
    correlation = _correlation(pixels, pixel_row[result[:, :2]])
    return NearPairs(result[:, :2], result[:, 2], correlation)


def _correlation(pixels: NDArray[np.uint8], pairs: NDArray[np.int64]) -> NDArray[np.float64]:
    """Pearson correlation (P,) of the thumbnails of pairs (P, 2) of pixel rows."""
    result = np.zeros(len(pairs))
    for start in range(0, len(pairs), BLOCK):
        block = slice(start, start + BLOCK)
        first, second = (_standardised(pixels, pairs[block, side]) for side in (0, 1))
        result[block] = (first * second).mean(axis=1)
    return result


def _standardised(pixels: NDArray[np.uint8], rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Thumbnails (n, 1024) with mean 0 and variance 1; a uniform one stays 0."""
    few, at = np.unique(rows, return_inverse=True)
    step = pixels.shape[1] // THUMBNAIL
    side = step * THUMBNAIL
    blocks = pixels[few, :side, :side].reshape(-1, THUMBNAIL, step, THUMBNAIL, step)
    small = blocks.mean(axis=(2, 4), dtype=np.float32).reshape(len(few), -1)
    small -= small.mean(axis=1, keepdims=True)
    small /= np.maximum(small.std(axis=1, keepdims=True), 1e-6)
    return np.asarray(small[at])


def merged_groups(
    group: "pd.Series[str]", file_sha256: "pd.Series[str]", same: NDArray[np.int64]
) -> "pd.Series[str]":
    """Merge groups that share an image, under the name of the first of them.

    Args:
        group: (N,).
        file_sha256: (N,), empty without an image.
        same: (P, 2) positions of further images that are the same.
    """
    codes, names = pd.factorize(group, sort=True)
    image = (file_sha256 != "").to_numpy()
    files = pd.factorize(file_sha256[image])[0]
    heads = np.concatenate((codes[image], codes[same[:, 0]]))
    tails = np.concatenate((len(names) + files, codes[same[:, 1]]))
    count = len(names) + len(files)
    edges = coo_array((np.ones(len(heads)), (heads, tails)), shape=(count, count))
    component = connected_components(edges, directed=False)[1][: len(names)]
    first = pd.Series(names).groupby(component).transform("first").to_numpy()
    return pd.Series(first[codes], index=group.index)


def audit(
    manifest: Manifest, table: pd.DataFrame, file_sha256: "pd.Series[str]", near: NearPairs
) -> dict[str, Any]:
    """Report what the parts share, and the distribution of labels over them.

    Args:
        manifest: the studies.
        table: the split, rows as in the manifest: `group`, `part`, `fold`.
        file_sha256: likewise, empty without an image.
        near: see `near_pairs`.

    Returns:
        Plain values for JSON. `shared_groups` is 0 in every split of this project but that by
        sites, where it counts groups that share an image with another site and do not train the
        model that is tested there. Studies whose patient is not known, and is called like the
        study, are `own_patients`.
    """
    parts = part_names(table)
    return {
        "task": manifest.task.name,
        "shared_groups": _shared(table["group"], parts),
        "shared_patients": _shared(manifest.frame["patient_id"], parts),
        "own_patients": int(manifest.frame["patient_id"].eq(manifest.frame["study_id"]).sum()),
        "groups_merged": int(manifest.frame["group"].nunique() - table["group"].nunique()),
        "exact_duplicates": _exact(manifest, file_sha256, parts),
        "near_duplicates": _near(manifest, near, parts),
        "parts": {name: _balance(manifest, parts == name) for name in sorted(set(parts))},
    }


def part_names(table: pd.DataFrame) -> NDArray[np.object_]:
    """Part of each study; for cross-validation the fold in which it is tested, as `fold 0`, or the
    site."""
    folds = table[SITE] if SITE in table else "fold " + table["fold"].astype(str)
    return np.asarray(table["part"].where(table["part"] != "", folds), dtype=object)


def _shared(ids: "pd.Series[str]", parts: NDArray[np.object_]) -> int:
    """Number of ids in more than one part."""
    return int(pd.Series(parts).groupby(ids.to_numpy()).nunique().gt(1).sum())


def _exact(
    manifest: Manifest, file_sha256: "pd.Series[str]", parts: NDArray[np.object_]
) -> dict[str, Any]:
    """Files of several studies, how many of them at several sites, and pairs in different parts."""
    facts = {"part": parts, "site": manifest.frame["site"].to_numpy(), "row": range(len(parts))}
    frame = pd.DataFrame({"file": file_sha256.to_numpy(), **facts})
    frame = frame[frame["file"] != ""]
    repeated = frame[frame["file"].duplicated(keep=False)]
    spread = repeated[repeated.groupby("file")["part"].transform("nunique") > 1]
    # One study per part and file is listed.
    firsts = spread.drop_duplicates(["file", "part"]).groupby("file", sort=False)["row"]
    pairs = [pair for _, rows in firsts for pair in combinations(rows, 2)]
    return {
        "files": int(repeated["file"].nunique()),
        "files_across_parts": int(spread["file"].nunique()),
        "files_across_sites": int(repeated.groupby("file")["site"].nunique().gt(1).sum()),
        "listed": [_named(manifest, parts, *pair) for pair in pairs[:LISTED]],
    }


def _near(manifest: Manifest, near: NearPairs, parts: NDArray[np.object_]) -> dict[str, Any]:
    """Re-encoded copies, and similar images in different parts, most similar first."""
    site = manifest.frame["site"].to_numpy(object)[near.rows]
    other_site = (site[:, 0] != site[:, 1]) & ~pd.isna(site).any(axis=1)
    across = parts[near.rows[:, 0]] != parts[near.rows[:, 1]]
    order = np.flatnonzero(across)[np.argsort(-near.correlation[across], kind="stable")]
    return {
        "candidates": len(near.rows),
        "same_image": int(near.same_image.sum()),
        "same_image_across_parts": int((near.same_image & across).sum()),
        "same_image_across_sites": int((near.same_image & other_site).sum()),
        "candidates_across_parts": int(across.sum()),
        "listed": [
            {
                **_named(manifest, parts, *near.rows[at]),
                "bits": int(near.distance[at]),
                "correlation": round(float(near.correlation[at]), 4),
            }
            for at in order[:LISTED]
        ],
    }


def _named(manifest: Manifest, parts: NDArray[np.object_], i: int, j: int) -> dict[str, Any]:
    studies = manifest.frame["study_id"]
    return {"studies": [studies.iloc[i], studies.iloc[j]], "parts": [parts[i], parts[j]]}


def _balance(manifest: Manifest, rows: NDArray[np.bool_]) -> dict[str, Any]:
    labels, frame = manifest.labels()[rows], manifest.frame[rows]
    findings = {}
    for i, name in enumerate(manifest.task.finding_names):
        positive, negative = int((labels[:, i] == 1).sum()), int((labels[:, i] == 0).sum())
        known = positive + negative
        findings[name] = {
            "positive": positive,
            "negative": negative,
            "missing": len(labels) - known,
            "prevalence": positive / known if known else float("nan"),
        }
    return {
        "studies": len(frame),
        "patients": int(frame["patient_id"].nunique()),
        "groups": int(frame["group"].nunique()),
        "findings": findings,
    }
