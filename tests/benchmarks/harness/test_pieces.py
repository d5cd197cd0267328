"""Pieces: what is measured is kept, and the same command goes on with the others."""

import pytest

from benchmarks.harness.parts import Row
from benchmarks.harness.pieces import measure_pieces


def test_a_stopped_part_goes_on_with_the_pieces_that_it_lacks(tmp_path):
    folder, asked = tmp_path / "work", []

    def piece(name, fails=False):
        def measure(where):
            assert where == folder
            asked.append(name)
            if fails:
                raise KeyboardInterrupt
            yield Row(task="t", row=name, metric="m", value=len(asked), n=1, must=3.0, ceiling=True)

        return measure

    with pytest.raises(KeyboardInterrupt):
        measure_pieces(folder, {"a": piece("a"), "b": piece("b", fails=True), "c": piece("c")})
    rows = measure_pieces(folder, {name: piece(name) for name in "abc"})
    assert asked == ["a", "b", "b", "c"]
    assert [(row.row, row.value, row.met) for row in rows] == [
        ("a", 1.0, "met"),
        ("b", 3.0, "met"),
        ("c", 4.0, "not met"),
    ]
    assert not folder.exists()
