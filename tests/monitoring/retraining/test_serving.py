"""Versions and the pointer: whole at any moment, one switch at a time, and a way back."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cxr_mm.core.errors import BundleError, InputError, StageError
from cxr_mm.models.registry import read_index, read_pointer, resolved
from monitoring.retraining.change_record import read_events
from monitoring.retraining.experiment import NEWEST_REFERENCE_FOLDER as NEWEST_REFERENCE
from monitoring.retraining.experiment import dvc
from monitoring.retraining.promotion import adopt, pointer_file, promote, rollback

CHAMPION = "models/synthetic/bundle"
CHANGES = "serving/synthetic/changes"


def damage(bundle):
    weights = bundle / "fusion.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)


def test_a_bundle_named_by_its_folder_is_that_folder(bundle_folder):
    assert resolved(bundle_folder) == bundle_folder


def test_a_pointer_that_is_missing_or_damaged_is_an_error_that_says_what_to_do(tmp_path):
    with pytest.raises(BundleError, match="adopt"):
        resolved(tmp_path / "current.json")
    (tmp_path / "current.json").write_text('{"task": "x"}')
    with pytest.raises(BundleError, match="not a readable pointer"):
        resolved(tmp_path / "current.json")


def test_the_first_version_has_all_that_belongs_to_it(project, bundle_folder):
    result = adopt(project / CHAMPION, "A. Reader", project)
    folder = resolved(pointer_file("synthetic", project))
    assert read_index(folder).digest == result.digest == read_index(bundle_folder).digest
    assert (folder.parent / "reference" / "reference.json").is_file()
    assert (folder.parent / "heldout.parquet").is_file()
    assert result.digest in (folder.parent / "reports" / "model_card.md").read_text()
    with pytest.raises(StageError, match="serves already"):
        adopt(project / CHAMPION, "A. Reader", project)


@pytest.mark.parametrize("file", ["model_card.md", "metrics.json"])
def test_reports_of_another_model_do_not_go_with_a_version(project, file, caplog):
    text = {"model_card.md": "Card of another", "metrics.json": '{"digest": "another"}'}
    (project / "reports/synthetic" / file).write_text(text[file])
    adopt(project / CHAMPION, "A. Reader", project)
    assert "The reports are left out" in caplog.text
    assert "of another model" in caplog.text
    version = resolved(pointer_file("synthetic", project)).parent
    assert not (version / "reports").exists()


def test_a_bundle_without_its_reference_cannot_serve(project):
    shutil.rmtree(project / "models/synthetic/reference")
    with pytest.raises(StageError, match="missing beside the bundle"):
        adopt(project / CHAMPION, "A. Reader", project)
    assert not pointer_file("synthetic", project).exists()


def test_promotion_points_to_the_challenger_and_says_who_approved(project, make_record):
    adopt(project / CHAMPION, "A. Reader", project)
    record = make_record(project)
    result = promote(record.id, "  B. Chief ", project)
    assert result == read_pointer(pointer_file("synthetic", project))
    assert (result.digest, result.record, result.by) == (
        record.challenger.digest,
        record.id,
        "B. Chief",
    )
    (event,) = read_events(project / CHANGES, record.id)
    assert (event.act, event.by) == ("approved", "B. Chief")
    assert (event.before, event.after) == (record.champion.digest, record.challenger.digest)
    assert (project / "additions/synthetic/v1/manifest.csv").is_file()


def test_a_challenger_is_watched_against_the_newest_studies_where_they_were_enough(
    project, make_record
):
    newest = project / "experiments/synthetic/one" / NEWEST_REFERENCE
    newest.mkdir()
    (newest / "reference.json").write_text("of the newest")
    promote(make_record(project).id, "B. Chief", project)
    version = resolved(pointer_file("synthetic", project)).parent
    assert (version / "reference/reference.json").read_text() == "of the newest"


def test_promotion_is_tracked_by_dvc_where_the_project_is(project, make_record):
    dvc(project, "init", "--no-scm", "--quiet")
    promote(make_record(project).id, "B. Chief", project)
    assert "md5" in (project / "additions/synthetic/v1.dvc").read_text()


def test_without_a_pointer_the_champion_is_adopted_so_that_there_is_a_way_back(
    project, make_record
):
    record = make_record(project)
    promote(record.id, "B. Chief", project)
    result = rollback("synthetic", "C. Night", project)
    assert result.digest == record.champion.digest
    assert [e.act for e in read_events(project / CHANGES, record.id)] == ["approved", "rolled back"]
    with pytest.raises(StageError, match="no version served before"):
        rollback("synthetic", "C. Night", project)


def test_what_was_rolled_back_can_be_promoted_again_though_the_experiment_is_gone(
    project, make_record
):
    record = make_record(project)
    promote(record.id, "B. Chief", project)
    rollback("synthetic", "C. Night", project)
    shutil.rmtree(project / "experiments")
    assert promote(record.id, "B. Chief", project).digest == record.challenger.digest
    assert len(read_events(project / CHANGES, record.id)) == 3


def test_a_rejected_challenger_cannot_be_promoted(project, make_record):
    with pytest.raises(StageError, match="rejected"):
        promote(make_record(project, outcome="rejected").id, "B. Chief", project)
    assert not pointer_file("synthetic", project).exists()


@pytest.mark.parametrize("name", ["", "   ", "x" * 300])
def test_nobody_approves_without_a_name(project, make_record, name):
    with pytest.raises(InputError, match="--by"):
        promote(make_record(project).id, name, project)


def test_a_task_that_never_served_has_nothing_to_go_back_to(tmp_path):
    with pytest.raises(BundleError, match="no such pointer"):
        rollback("unknown", "C. Night", tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_unknown_record_is_refused(project):
    with pytest.raises(StageError, match="no such change record"):
        promote("../../etc", "B. Chief", project)


def test_a_damaged_challenger_is_refused_and_the_champion_stays(project, make_record):
    adopt(project / CHAMPION, "A. Reader", project)
    record = make_record(project)
    damage(project / "experiments/synthetic/one/models/synthetic/bundle")
    with pytest.raises(BundleError, match="was changed"):
        promote(record.id, "B. Chief", project)
    assert read_pointer(pointer_file("synthetic", project)).digest == record.champion.digest


def test_a_damaged_version_is_not_gone_back_to(project, make_record):
    adopt(project / CHAMPION, "A. Reader", project)
    damage(resolved(pointer_file("synthetic", project)))
    record = make_record(project)
    promote(record.id, "B. Chief", project)
    with pytest.raises(BundleError, match="was changed"):
        rollback("synthetic", "C. Night", project)
    assert read_pointer(pointer_file("synthetic", project)).digest == record.challenger.digest


def test_a_challenger_that_was_compared_with_another_champion_is_refused(
    project, make_record, lay_bundle, a_third
):
    adopt(project / CHAMPION, "A. Reader", project)
    lay_bundle(a_third, project, Path("experiments/synthetic/two"))
    first = make_record(project)
    second = make_record(project, experiment="experiments/synthetic/two")
    promote(first.id, "B. Chief", project)
    with pytest.raises(StageError, match="retrain again"):
        promote(second.id, "B. Chief", project)
    assert read_pointer(pointer_file("synthetic", project)).digest == first.challenger.digest


PROMOTE = (
    "import sys; from pathlib import Path; from monitoring.retraining.promotion import promote; "
)


def promoting(project, record, before=""):
    code = f"{PROMOTE}{before}print(promote({record!r}, 'B. Chief', Path({str(project)!r})).digest)"
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def test_of_two_promotions_at_once_one_wins_and_the_other_is_refused(
    project, make_record, lay_bundle, a_third
):
    adopt(project / CHAMPION, "A. Reader", project)
    lay_bundle(a_third, project, Path("experiments/synthetic/two"))
    records = [
        make_record(project),
        make_record(project, experiment="experiments/synthetic/two"),
    ]
    # Both wait for a file, so that they start together.
    wait = "import time\nwhile not Path('" + str(project / "go") + "').exists(): time.sleep(0.01)\n"
    both = [promoting(project, record.id, before=f"\n{wait}") for record in records]
    time.sleep(1)
    (project / "go").touch()
    result = [process.communicate(timeout=120) for process in both]
    assert sorted(process.returncode for process in both) == [0, 1]
    (winner,) = [out.strip() for (out, _), p in zip(result, both, strict=True) if p.returncode == 0]
    (message,) = [err for (_, err), p in zip(result, both, strict=True) if p.returncode]
    assert "retrain again" in message
    assert read_pointer(pointer_file("synthetic", project)).digest == winner


def test_a_promotion_killed_at_any_moment_leaves_the_old_or_the_new_whole(project, make_record):
    adopt(project / CHAMPION, "A. Reader", project)
    record = make_record(project)
    path = pointer_file("synthetic", project)
    whole = {record.champion.digest, record.challenger.digest}
    begun = "print('begun', flush=True); "
    for wait in (0.0, 0.02, 0.1):
        process = promoting(project, record.id, before=begun)
        assert process.stdout.readline() == "begun\n"
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        pointer = read_pointer(path)
        assert pointer.digest in whole
        assert read_index(resolved(path)).digest == pointer.digest
        if pointer.digest == record.challenger.digest:
            rollback("synthetic", "C. Night", project)
    assert promote(record.id, "B. Chief", project).digest == record.challenger.digest


def test_a_change_record_is_never_rewritten(project, make_record):
    record = make_record(project)
    path = project / CHANGES / f"{record.id}.json"
    text = path.read_text()
    with pytest.raises(StageError, match="never rewritten"):
        make_record(project, outcome="non-inferior")
    assert path.read_text() == text
    promote(record.id, "B. Chief", project)
    rollback("synthetic", "C. Night", project)
    assert path.read_text() == text
    assert json.loads((project / CHANGES / f"{record.id}.2.json").read_text())["by"] == "C. Night"
