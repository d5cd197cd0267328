import numpy as np
import pytest

from cxr_mm.evaluation.report.plots import draw_subgroups


@pytest.mark.parametrize("settings", [{}, {"problem": "multilabel", "kind": "synthetic"}])
def test_one_row_of_three_panels_a_finding(settings, results_of):
    results = results_of(**settings)
    subgroups = results.subgroups
    figure = draw_subgroups(results.task, subgroups)
    assert len(figure.axes) == 3 * len(results.task.findings)
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    groups = subgroups["findings"]["effusion"]["view"]["groups"]
    assert f"view: PA (n = {groups['PA']['n']}, {groups['PA']['positives']} positive)" in labels
    small = [t.get_text() for t in figure.axes[0].texts]
    few = [
        group
        for by, message in subgroups["findings"]["effusion"].items()
        if " × " not in by
        for group in message["groups"].values()
        if group["auc"]["value"] is None
    ]
    assert small.count("too few") == len(few) > 0


def test_nothing_known_is_said(task_of):
    task = task_of()
    empty = {"findings": {"effusion": {}}, "flags": []}
    figure = draw_subgroups(task, empty)
    figure.canvas.draw()
    assert "no characteristic is known" in [t.get_text() for t in figure.axes[0].texts]
    assert np.asarray(figure.canvas.buffer_rgba()).std() > 0
