"""The other tabs in a real browser."""

import zipfile

from tests.browser.test_reading import opened, predict


def tab(window, name):
    window.get_by_role("tab", name=name).click()


def give_list(window, path):
    """Hand images to the worklist, and wait until they are uploaded: only then has the table of
    files a cell with this label; its text is the name in two pieces."""
    images = window.locator("#worklist-images")
    images.locator("input[type=file]").set_input_files(path)
    images.get_by_label(path.name).wait_for()


def test_a_zip_becomes_a_worklist_and_a_csv(window, site, tmp_path):
    path = tmp_path / "images.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for image in site.images[:3]:
            archive.write(image, image.name)
        archive.writestr("broken.png", b"no image")
    opened(window, site.url)
    tab(window, "Worklist")
    give_list(window, path)
    window.get_by_role("button", name="Predict all").click()
    window.wait_for_selector(".worklist table")
    assert window.locator(".worklist tbody tr").count() + window.locator(".undone li").count() == 4
    assert "broken.png" in window.locator(".undone").inner_text()
    with window.expect_download() as waiting:
        window.get_by_role("button", name="Download as CSV").click()
    lines = waiting.value.path().read_text(encoding="utf-8").splitlines()
    assert len(lines) == 1 + window.locator(".worklist tbody tr").count()


def test_two_studies_are_compared(window, site):
    opened(window, site.url)
    for note in ("Fever and cough.", "No fever, follow-up."):
        window.get_by_label("Clinical note").fill(note)
        window.wait_for_timeout(300)
        predict(window)
        window.wait_for_function("!document.querySelector('#answer').classList.contains('stale')")
        window.wait_for_timeout(1500)
    tab(window, "Compare")
    window.wait_for_selector("#compared section")
    assert window.locator("#compared section").count() == 2
    assert "points" in window.locator("#compared").inner_text()


def test_health_says_what_is_known_of_the_model(window, site):
    opened(window, site.url)
    tab(window, "Model health")
    window.get_by_text("Limitations").wait_for()
    window.wait_for_selector(".health >> text=monitoring report")
