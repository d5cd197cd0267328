"""Sign-in in a real browser."""

from app.security.auth import add_user
from tests.browser.conftest import serving

PASSWORD = "correct horse battery"


def test_only_who_signs_in_sees_the_page(window, pipeline, tmp_path):
    add_user(tmp_path / "users.txt", "ada", PASSWORD)
    words = ("--bundle", str(pipeline.paths.bundle), "--no-log", "--users", "users.txt")
    with serving(tmp_path, *words) as url:
        window.goto(url)
        window.get_by_label("Name").fill("ada")
        window.get_by_label("Password").fill("wrong")
        window.get_by_role("button").click()
        assert window.locator("#predict").count() == 0
        window.get_by_label("Name").fill("ada")
        window.get_by_label("Password").fill(PASSWORD)
        window.get_by_role("button").click()
        window.wait_for_selector("#predict")
