"""Tree: every leaf once, children before parents, near things together."""

import numpy as np
import pytest
from scipy.cluster.hierarchy import is_valid_linkage

from cxr_mm.explain.games import balanced, bisected, linkage


@pytest.mark.parametrize("leaves", [2, 3, 7, 16, 33])
def test_it_is_a_hierarchy_of_all_leaves(leaves):
    found = linkage(balanced(range(leaves)), leaves)
    assert is_valid_linkage(found)
    assert found.shape == (leaves - 1, 4)
    assert found[-1, 3] == leaves
    assert found[-1, 2] == np.ceil(np.log2(leaves))


def test_neighbours_are_parted_last():
    rows, columns = np.divmod(np.arange(32), 8)  # four rows of eight
    tree = bisected(np.stack([rows, columns], axis=1).astype(float))
    left, right = (sorted(leaves(half)) for half in tree)
    assert {k % 8 for k in left} == {0, 1, 2, 3}
    assert {k % 8 for k in right} == {4, 5, 6, 7}


def leaves(node):
    return [node] if isinstance(node, int) else [*leaves(node[0]), *leaves(node[1])]


def test_one_leaf_needs_no_branch():
    assert linkage(balanced([0]), 1).shape == (0, 4)
