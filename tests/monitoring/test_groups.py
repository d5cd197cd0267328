"""Subgroups: the same figures by sex, age band and view, each against its own reference."""

from monitoring.diagnostics import score_groups


def test_groups_that_are_large_enough_are_held_against_their_own(window, frozen):
    groups = score_groups(window(300, 41, labelled=True), frozen)
    levels = {(g.characteristic, g.level) for g in groups}
    assert {("Sex", "F"), ("Sex", "M"), ("View position", "PA"), ("Age", "40-59")} <= levels
    assert not any(level == "0-17" for _, level in levels)
    assert all(g.n >= 20 for g in groups)
    women = next(g for g in groups if g.level == "F")
    table = window(300, 41, labelled=True)
    assert women.n == (table["clinical.sex"] == "F").sum()


def test_one_group_alone_gets_worse_and_is_marked(window, frozen):
    table = window(400, 42, labelled=True)
    women = table["clinical.sex"] == "F"
    table.loc[women, "label.pneumonia"] = 1 - table.loc[women, "label.pneumonia"]
    groups = {g.level: g for g in score_groups(table, frozen) if g.characteristic == "Sex"}
    assert groups["F"].metrics[0].score > groups["F"].limit
    assert groups["M"].metrics[0].score < groups["M"].limit
