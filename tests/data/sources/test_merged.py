from collections import Counter

import pytest
from PIL import Image

from cxr_mm.core.errors import DataNotFoundError, TaskError
from cxr_mm.core.task import Task, load_task
from cxr_mm.data.labels import to_manifest
from cxr_mm.data.sources import can_fetch, fingerprint, read_source, source_found
from cxr_mm.data.sources.losses import Dropped

NORTH = """\
study_id,patient_id,image_path,finding,years,follow_up
1,p,a.png,Effusion|Mass,50,2
2,p,b.png,No Finding,51,1
3,q,c.png,todo,52,1
4,r,d.png,Nodule,53,1
"""
SOUTH = """\
study_id,patient_id,image_path,fluid,age,sex,site
1,p,a.png,yes,60,F,east wing
2,q,b.png,no,,M,
"""
MEMBERS = {
    "north": {
        "kind": "manifest_csv",
        "folder": "north",
        "labels": {
            "effusion": {
                "column": "finding",
                "positive": ["Effusion"],
                "negative": ["No Finding"],
                "unlabelled": ["todo"],
            },
            "mass": {
                "column": "finding",
                "positive": ["Mass"],
                "negative": ["*"],
                "unlabelled": ["todo"],
            },
        },
        "columns": {"years": "age"},
    },
    "south": {
        "kind": "manifest_csv",
        "folder": "south",
        "labels": {"effusion": {"column": "fluid"}},
    },
}


def task(members=MEMBERS, findings=("effusion", "mass"), **fields):
    return Task.model_validate(
        {
            "name": "both",
            "title": "Both",
            "problem": "multilabel",
            "findings": [{"name": name, "title": name} for name in findings],
            "clinical": [
                {"name": "age", "title": "Age", "type": "number", "minimum": 0, "maximum": 120},
                {"name": "sex", "title": "Sex", "type": "category", "categories": ["F", "M"]},
            ],
            "source": {"kind": "merged", "options": {"members": members}},
            "split": {"protocol": "sites"},
            "licence": "none",
            "citation": "none",
        }
        | fields
    )


def changed(member, **fields):
    return MEMBERS | {member: MEMBERS[member] | fields}


@pytest.fixture
def root(tmp_path):
    for name, table in (("north", NORTH), ("south", SOUTH)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.csv").write_text(table)
    return tmp_path


def read(root, **fields):
    question = task(**fields)
    return to_manifest(question, read_source(question, root, root / "work"))


def test_ids_never_collide_and_the_site_is_the_members_name(root):
    frame = read(root).manifest.frame
    assert frame["study_id"].tolist() == ["north/1", "north/2", "north/4", "south/1", "south/2"]
    assert frame["patient_id"].tolist() == ["north/p", "north/p", "north/r", "south/p", "south/q"]
    assert frame["group"].tolist() == frame["patient_id"].tolist()
    assert frame["site"].tolist() == ["north"] * 3 + ["south"] * 2
    assert frame["image_path"][3] == str(root / "south/a.png")


def test_labels_are_mapped_and_what_a_member_does_not_know_is_missing(root):
    frame = read(root).manifest.frame.set_index("study_id")
    effusion, mass = (frame[f"finding.{name}"].dropna().to_dict() for name in ("effusion", "mass"))
    assert effusion == {"north/1": 1.0, "north/2": 0.0, "south/1": 1.0, "south/2": 0.0}
    assert mass == {"north/1": 1.0, "north/2": 0.0, "north/4": 0.0}


def test_columns_take_the_tasks_names_and_are_missing_where_a_member_has_none(root):
    frame = read(root).manifest.frame.set_index("study_id")
    assert frame["clinical.age"].dropna().to_dict() == {
        "north/1": 50,
        "north/2": 51,
        "north/4": 53,
        "south/1": 60,
    }
    assert frame["clinical.sex"].dropna().to_dict() == {"south/1": "F", "south/2": "M"}


def test_losses_of_members_and_of_filters_are_counted_with_reasons(root):
    labelled = read(root, findings=["effusion"], members=changed("north", labels=ONLY_EFFUSION))
    assert labelled.dropped == [
        Dropped("north/3", "no label"),
        Dropped("north/4", "label neither yes nor no", "Nodule"),
    ]
    kept = read(root, ages=[51, 60])
    assert Counter(d.reason for d in kept.dropped) == {
        "age outside the range": 1,
        "age not known": 1,
        "no label": 1,
    }


ONLY_EFFUSION = {"effusion": MEMBERS["north"]["labels"]["effusion"]}


def test_the_first_study_of_a_patient_is_taken_within_each_member(root):
    members = changed("south", columns={"age": "follow_up"})
    frame = read(root, members=members, clinical=[], first_by="follow_up").manifest.frame
    assert frame["study_id"].tolist() == ["north/2", "north/4", "south/1", "south/2"]


def test_a_missing_member_is_named_with_what_it_lacks(root):
    (root / "south/manifest.csv").unlink()
    assert source_found(task(), root) == f"south: no file {root}/south/manifest.csv"
    with pytest.raises(DataNotFoundError, match="task both: south: no file"):
        read_source(task(), root, root)
    assert not can_fetch(task())
    assert can_fetch(task(changed("south", download="git:https://example.org/south")))


def test_the_fingerprint_is_that_of_every_member(root):
    before = fingerprint(task(), root)
    assert before["members"].keys() == MEMBERS.keys()
    (root / "south/more.txt").write_text("x")
    after = fingerprint(task(), root)
    assert after["members"]["north"] == before["members"]["north"]
    assert after["members"]["south"] != before["members"]["south"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"members": {"north": MEMBERS["north"]}}, "at least 2 items"),
        ({"members": changed("south", kind="synthetic")}, "synthetic cannot be merged"),
        ({"members": changed("south", labels={})}, r"members\.south\.labels"),
        ({"members": changed("south", labels={"flu": {}})}, "flu is no finding of the task"),
        ({"findings": ["effusion", "mass", "flu"]}, "no member has labels of flu"),
        ({"members": changed("south", columns={"ward": "view"})}, "no column ward"),
        ({"members": changed("north", options={"files": "x"})}, r"both\.north: source\.options"),
    ],
)
def test_what_cannot_be_merged_is_said(root, fields, message):
    with pytest.raises(TaskError, match=message):
        read(root, **fields)


def test_labels_of_the_tasks_own_findings_are_refused(root):
    question = task()
    own = question.findings[0].model_copy(update={"column": "fluid"})
    question = question.model_copy(update={"findings": (own, question.findings[1])})
    with pytest.raises(
        TaskError, match=r"effusion has labels of its own.*source\.options\.members"
    ):
        read_source(question, root, root)


def test_members_with_folders_of_classes_keep_their_layout(tmp_path):
    for name in ("sick/a.png", "well/b.png"):
        (tmp_path / "south" / name).parent.mkdir(parents=True)
        Image.new("L", (8, 8)).save(tmp_path / "south" / name)
    (tmp_path / "north").mkdir()
    (tmp_path / "north/manifest.csv").write_text(NORTH)
    rule = {"column": "label", "positive": ["sick"], "negative": ["well"]}
    folders = {"kind": "class_folders", "folder": "south", "labels": {"effusion": rule}}
    question = task(MEMBERS | {"south": folders}, clinical=[])
    frame = to_manifest(question, read_source(question, tmp_path, tmp_path)).manifest.frame
    assert frame.loc[frame["site"].eq("south"), "finding.effusion"].tolist() == [1.0, 0.0]


def test_real_counts(data_root, tmp_path):
    question = load_task("pneumonia_sites")
    frame = to_manifest(question, read_source(question, data_root, tmp_path)).manifest.frame
    found = frame.groupby("site")["finding.pneumonia"].agg(["sum", "size"])
    assert found.T.to_dict("list") == {
        "children": [4265, 5840],
        "covid": [429, 440],
        "nih": [84, 142],
    }
