"""Screenshot: the page's answer to an example, as docs/page.png shows it."""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import Page, ViewportSize, sync_playwright

from benchmarks.system.load import served
from cxr_mm.core.files import atomic_write

OUT = Path("docs/page.png")
SIZE: ViewportSize = {"width": 1366, "height": 1340}
PORT = 7895
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")


def main() -> None:
    """Serve the synthetic task's bundle, answer its first example, and write the picture.

    Raises:
        StageError: there is no bundle yet.
    """
    with served("synthetic", PORT, "--no-log"):
        _picture(OUT)
    sys.stdout.write(f"{OUT}\n")


def _picture(out: Path) -> None:
    found = next((path for name in CHROMIUM if (path := shutil.which(name))), None)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE)
        page.goto(f"http://127.0.0.1:{PORT}/")
        _answer(page)
        with atomic_write(out) as aside:
            page.screenshot(path=aside, type="png")
        browser.close()


def _answer(page: Page) -> None:
    page.get_by_text("Example 1", exact=True).click()
    page.wait_for_selector("#image-preview img")
    page.locator("#predict").click()
    page.wait_for_selector("#overlay img")
    page.wait_for_selector(".cxr-word")
    page.wait_for_timeout(1500)
    page.evaluate("scrollTo(0, 0)")
    page.wait_for_timeout(300)


if __name__ == "__main__":
    main()
