import re

import pytest
import yaml

from cxr_mm.core.config import for_task, load_params
from cxr_mm.core.errors import TaskError
from cxr_mm.core.task import load_task, shipped_tasks
from cxr_mm.data.notes import mask_note
from cxr_mm.data.sources import members_of, read_source

SOURCE_REAL = {"pneumonia", "pneumonia3", "effusion", "covid", "icu", "intubation"} | {
    "icu_early",
    "intubation_early",
    "nih",
    "nih_opacity",
    "pneumonia_sites",
    "tb",
}


def test_real_tasks_are_shipped():
    assert set(shipped_tasks()) >= SOURCE_REAL


@pytest.mark.parametrize("name", shipped_tasks())
def test_shipped_task_is_complete(name):
    task = load_task(name)
    assert task.name == name
    assert task.licence
    assert task.citation
    assert task.caveats
    assert all(f.title for f in task.findings)
    assert all(c.unit for c in task.clinical if c.type == "number")
    members = members_of(task).values() if task.source.kind == "merged" else [task]
    for source in (member.source for member in members if not task.synthetic):
        assert re.match(r"(kaggle:[\w-]+/[\w-]+|git:https://\S+)$", source.download)
        assert source.homepage.startswith("https://")


@pytest.mark.parametrize("name", shipped_tasks())
def test_overrides_fit_the_parameters(name, request):
    file = request.config.rootpath / "params.yaml"
    if not file.is_file():
        pytest.skip("no params.yaml in the project")
    for_task(load_params(file), load_task(name))


def test_projects_own_task_comes_before_the_shipped(tmp_path):
    (tmp_path / "tasks").mkdir()
    own = load_task("pneumonia").model_copy(update={"title": "Mine"})
    (tmp_path / "tasks/pneumonia.yaml").write_text(yaml.safe_dump(own.model_dump(mode="json")))
    assert load_task("pneumonia", tmp_path).title == "Mine"
    assert load_task(tmp_path / "tasks/pneumonia.yaml").title == "Mine"


def test_unknown_name_lists_the_shipped():
    with pytest.raises(TaskError, match=r"^nosuch: no such task\. Shipped are .*pneumonia"):
        load_task("nosuch")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"colour": "blue"}, "colour"),
        ({"problem": "regression"}, "problem"),
        ({"findings": []}, "findings"),
        ({"name": "No Spaces"}, "name"),
        ({"split": {"protocol": "folds", "folds": 1}}, "split.folds"),
        ({"note": {"mask": ["("]}}, "note.mask"),
    ],
)
def test_bad_field_is_named_with_the_file(tmp_path, change, field):
    raw = load_task("pneumonia").model_dump(mode="json") | change
    path = tmp_path / "bad.yaml"
    path.write_text(yaml.safe_dump(raw))
    with pytest.raises(TaskError, match=rf"bad\.yaml: {field}: .*compare it with"):
        load_task(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"a: [1", "not YAML"), (b"\xff\xfe", "UTF-8"), (b"", "top level"), (b"- 1", "top level")],
)
def test_what_is_no_task_file(tmp_path, content, message):
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    with pytest.raises(TaskError, match=message) as error:
        load_task(path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


def test_missing_file(tmp_path):
    with pytest.raises(TaskError, match="cannot be read"):
        load_task(tmp_path / "none.yaml")


def test_yaml_tags_run_nothing(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text("!!python/object/apply:os.system ['true']")
    with pytest.raises(TaskError, match="not YAML"):
        load_task(path)


@pytest.mark.parametrize(
    ("name", "note", "hidden"),
    [
        ("covid", "The RT-PCR throat swab was COVID-19 positive.", "covid pcr swab positive"),
        ("covid", "ClassicCOVID-19 look; SARS-CoV-2 RNA was detected.", "covid sars rna detected"),
        ("covid", "Arrived from Wuhan, China on 13/03/2020, 2019-nCoV.", "wuhan china 2020 ncov"),
        ("covid", "Pneumocystis jiroveci (PCP) or E.Coli, Legionella-Ag.", "pneumocystis pcp coli"),
        ("covid", "Given lopinavir/ritonavir and hydroxychloroquine.", "lopina ritona chloroquin"),
        ("icu", "Intubated, moved to ITU / intensive care unit.", "intub itu intensive unit"),
        ("icu", "ETT in place, on mechanical ventilation, then extubated.", "ett ventil extub"),
        ("icu", "Hospitalized in Resuscitation; tracheal cannula, ECMO.", "resus tracheal ecmo"),
        ("intubation", "ETT and NG tube in situ, right jugular line.", "ett ng tube jugular line"),
        ("intubation", "Never required intubation; nasal cannula 2 L.", "never intub cannula"),
        ("intubation", "Weaned from sedation and PEEP, died in ICU.", "wean sedat peep died icu"),
        ("icu_early", "ARDS; PICC line in place, he did not survive.", "ards picc survive"),
        ("icu_early", "ETT and chest drain, later deceased in ITU.", "ett drain deceased itu"),
        ("intubation_early", "Acute respiratory failure, NG tube, fatal.", "failure ng tube fatal"),
        ("intubation", "He was extubated after 9 days of ventilation.", "extub 9 days ventilat"),
    ],
)
def test_masks_hide_what_names_the_answer(name, note, hidden):
    masked = mask_note(note, load_task(name).note).lower()
    assert not [word for word in hidden.split() if word in masked.replace("[mask]", "")]
    assert "[mask]" in masked


def test_masks_spare_ordinary_words():
    spec = load_task("covid").note
    note = "Cough for 3 days, peribroncovascular thickening, coronary disease, BP 137/70, age 60."
    assert mask_note(note, spec) == note
    note = "Paratracheal nodes, dysventilation of the bases, metabolic syndrome, in situ."
    assert mask_note(note, load_task("icu").note) == note
    assert mask_note(note, load_task("intubation").note) == note


@pytest.mark.parametrize("name", ["icu_early", "intubation_early"])
def test_no_early_note_tells_severity_lines_or_outcome(data_root, tmp_path, name):
    task = load_task(name)
    notes = read_source(task, data_root, tmp_path).frame["note"].dropna()
    masked = " ".join(mask_note(note, task.note) for note in notes).lower()
    told = r"\bards\b|\btubes?\b|tubat|catheter|\bpicc\b|\bicu\b|\bdied\b|death|surviv|deceased"
    assert re.findall(told, masked) == []


@pytest.mark.parametrize("name", ["covid", "icu", "intubation"])
def test_no_real_note_keeps_a_name(data_root, tmp_path, name):
    task = load_task(name)
    notes = read_source(task, data_root, tmp_path).frame["note"].dropna()
    masked = " ".join(mask_note(note, task.note) for note in notes).lower()
    names = {
        "covid": r"covid|sars\b|coronavirus|ncov\b|wuhan|pneumocyst|legionel|klebsi|pcr\b|swab",
        "icu": r"\bicu\b|\bitu\b|intensive care|tubat|ecmo|\bett\b|mechanical ventil",
        "intubation": (
            r"tubat|\btubes?\b|\bett\b|\bventilat|endotrach|tracheost|\bpeep\b|sedat|\bwean|\becmo"
            r"|\bicu\b|\bitu\b|intensive (?:care|therapy)|jugular line|catheter|nasogastric|cannula"
        ),
    }
    assert re.findall(names[name], masked) == []
