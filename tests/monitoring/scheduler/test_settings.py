"""Settings: monitoring.yaml as a user writes it."""

from pathlib import Path

import pytest

from cxr_mm.core.errors import ParamsError
from monitoring.config import MonitorParams, load_settings

EXAMPLE = Path(__file__).parents[3] / "docs" / "examples" / "monitoring.yaml"


def test_without_a_file_everything_is_the_default(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_settings() == MonitorParams()
    (tmp_path / "monitoring.yaml").write_text("report: {minutes: 5}")
    assert load_settings().report.minutes == 5
    (tmp_path / "monitoring.yaml").write_text("# nothing yet\n")
    assert load_settings() == MonitorParams()


def test_the_example_names_every_setting_there_is():
    found = load_settings(EXAMPLE)

    def unsaid(value, path=""):
        for name in type(value).model_fields:
            inner = getattr(value, name)
            if hasattr(inner, "model_fields_set"):
                yield from unsaid(inner, f"{path}{name}.")
            elif name not in value.model_fields_set:
                yield path + name

    assert set(unsaid(found)) <= {"alerts.mail.password_file"}
    assert found.alerts.webhook
    assert found.alerts.mail
    assert found.alerts.prometheus


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("report: {minutes: 0}", "report.minutes"),
        ("report: {hours: 1}", "report.hours"),
        ("alerts: {webhook: {url: 'ftp://x', secret_variable: A}}", "alerts.webhook.url"),
        ("- a list", "top level"),
        ("a: [", "not YAML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, text, field):
    path = tmp_path / "monitoring.yaml"
    path.write_text(text)
    with pytest.raises(ParamsError, match=field):
        load_settings(path)


def test_a_password_written_into_the_file_is_refused_and_not_repeated(tmp_path):
    path = tmp_path / "monitoring.yaml"
    path.write_text("alerts: {mail: {host: x, sender: a, recipients: [b], password: hunter2}}")
    with pytest.raises(ParamsError, match=r"alerts\.mail\.password") as error:
        load_settings(path)
    assert "hunter2" not in str(error.value)
    with pytest.raises(ParamsError, match="cannot be read"):
        load_settings(tmp_path / "none.yaml")
