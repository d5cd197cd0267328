"""Parameters: what params.yaml and a task may say, and the error where they say something else."""

from pathlib import Path

import pytest
import yaml

from cxr_mm.core.config import PARAMS_FILE, Params, SplitParams, for_task, load_params, with_split
from cxr_mm.core.errors import ParamsError
from cxr_mm.core.task import load_task, shipped_tasks

PROJECT = Path(__file__).parent.parent
SHIPPED = PROJECT / PARAMS_FILE
SECTIONS = set(Params.model_fields) - {"tasks", "per_task"}


def written(folder, **values):
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump({"tasks": ["synthetic"], **values}))
    return path


def overridden(**params):
    return load_task("synthetic").model_copy(update={"params": params})


def test_the_projects_own_file_names_every_section():
    raw = yaml.safe_load(SHIPPED.read_text())
    assert set(raw) == SECTIONS | {"tasks"}
    loaded = load_params(SHIPPED)
    for section in SECTIONS:
        for name, value in raw[section].items():
            assert getattr(getattr(loaded, section), name) == value


def test_sections_have_defaults(tmp_path):
    assert load_params(written(tmp_path)) == Params(tasks=("synthetic",))


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"fuse": {"fusoin": "late"}}, "fuse.fusoin"),
        ({"fuze": {}}, "fuze"),
        ({"ingest": {"size": "large"}}, "ingest.size"),
        ({"ingest": {"size": 8}}, "ingest.size"),
        ({"fuse": {"fusion": "early"}}, "fuse.fusion"),
        ({"fuse": {"target_sensitivity": 1.0}}, "fuse.target_sensitivity"),
        ({"split": {"seed": 1.5}}, "split.seed"),
        ({"tasks": []}, "tasks"),
        ({"evaluate": None}, "evaluate"),
    ],
)
def test_a_bad_parameter_is_named(tmp_path, values, field):
    path = written(tmp_path, **values)
    with pytest.raises(ParamsError) as caught:
        load_params(path)
    assert caught.value.field == f"{path}: {field}"


@pytest.mark.parametrize(("text", "message"), [("a: [1", "not YAML"), ("", "top level")])
def test_what_is_no_params_file(tmp_path, text, message):
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(ParamsError, match=message):
        load_params(tmp_path / "params.yaml")


def test_without_a_file_it_says_where_to_stand(tmp_path):
    with pytest.raises(ParamsError, match="Run this from the project's folder"):
        load_params(tmp_path / "params.yaml")


def test_a_task_overrides_only_what_it_names():
    plain = load_params(SHIPPED)
    found = for_task(plain, overridden(ingest={"size": 96}, fuse={"seed": 5}))
    assert found.ingest.size == 96
    assert found.ingest.workers == plain.ingest.workers
    assert found.fuse == plain.fuse.model_copy(update={"seed": 5})
    assert found.train_image == plain.train_image


@pytest.mark.parametrize("section", ["fuze", "tasks"])
def test_an_override_of_no_section_is_refused(section):
    with pytest.raises(ParamsError, match=rf"synthetic: params\.{section}: no such section"):
        for_task(load_params(SHIPPED), overridden(**{section: {"seed": 1}}))


@pytest.mark.parametrize(
    ("values", "field"), [({"size": 4}, "ingest.size"), ({"sise": 64}, "ingest.sise")]
)
def test_an_override_is_checked_like_the_file(values, field):
    with pytest.raises(ParamsError, match=rf"tasks/synthetic: params: {field}"):
        for_task(load_params(SHIPPED), overridden(ingest=values))


@pytest.mark.parametrize("name", shipped_tasks())
def test_every_shipped_task_gets_what_it_asks_for(name):
    task = load_task(name)
    found = for_task(load_params(SHIPPED), task)
    for section, values in task.params.items():
        assert getattr(found, section).model_dump() | values == getattr(found, section).model_dump()


def test_per_task_is_on_top_of_the_tasks_own(tmp_path):
    values = {"per_task": {"pneumonia": {"train_image": {"trainable": "frozen"}}}}
    plain = load_params(written(tmp_path, tasks=["pneumonia", "icu"], **values))
    task = load_task("pneumonia").model_copy(
        update={"params": {"train_image": {"trainable": "all", "epochs": 3}}}
    )
    found = for_task(plain, task)
    assert (found.train_image.trainable, found.train_image.epochs) == ("frozen", 3)
    assert for_task(plain, load_task("icu")).train_image == plain.train_image
    assert "per_task" not in found.model_dump()


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"synthetic": {"fuze": {}}}, r"per_task\.synthetic\.fuze: no such section"),
        ({"synthetic": {"fuse": {"sede": 1}}}, r"per_task\.synthetic: fuse\.sede"),
        ({"icu": {"fuse": {"seed": 1}}}, "icu is not among tasks"),
    ],
)
def test_per_task_is_checked_like_the_rest(tmp_path, values, field):
    with pytest.raises(ParamsError, match=field):
        for_task(load_params(written(tmp_path, per_task=values)), load_task("synthetic"))


@pytest.mark.parametrize("name", shipped_tasks())
def test_any_task_is_cross_validated_by_configuration_alone(name, tmp_path):
    task = load_task(name)
    folded = with_split(task, SplitParams(protocol="folds", folds=3))
    assert (folded.split.protocol, folded.split.folds) == ("folds", 3)
    assert folded.model_copy(update={"split": task.split}) == task
    assert with_split(task, SplitParams()) == task
