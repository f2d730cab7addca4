"""The report, opened and photographed in a real browser. Skipped where there is no Chromium."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="no chromium on this machine: apt-get install chromium"
)

#: Every text on the page with the ratio of its colour to the ground behind it, worst first.
CONTRAST = """() => {
  const parse = text => (text.match(/[\\d.]+/g) || []).map(Number);
  const light = c => { const [r, g, b] = c.slice(0, 3).map(v => v / 255)
      .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const ground = element => { for (let e = element; e; e = e.parentElement) {
      const c = parse(getComputedStyle(e).backgroundColor);
      if (c.length === 3 || c[3] > 0.5) return c; }
    return [255, 255, 255]; };
  const found = [];
  for (const element of document.querySelectorAll('body *')) {
    if (![...element.childNodes].some(n => n.nodeType === 3 && n.textContent.trim())) continue;
    if (!element.getClientRects().length) continue;
    const style = getComputedStyle(element), inside = element.namespaceURI.endsWith('svg');
    const a = light(parse(inside ? style.fill : style.color)), b = light(ground(element));
    found.push([(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), element.tagName, element.textContent.slice(0, 40)]);
  }
  return found.sort((a, b) => a[0] - b[0]);
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=BROWSER, args=QUIET)
        yield chromium
        chromium.close()


class Watched:
    """A page in its own context, with everything that it must not do written down."""

    def __init__(self, browser: Any, html: str, folder: Path, width: int, theme: str) -> None:
        file = folder / "report.html"
        file.write_text(html, encoding="utf-8")
        self.height = 844 if width < 600 else 900
        self.context = browser.new_context(
            viewport={"width": width, "height": self.height}, color_scheme=theme
        )
        self.page = self.context.new_page()
        self.trouble: list[str] = []
        self.page.on("console", lambda message: self.trouble.append(f"console: {message.text}"))
        self.page.on("pageerror", lambda error: self.trouble.append(f"error: {error}"))
        self.page.on(
            "dialog", lambda dialog: (self.trouble.append(f"dialog: {dialog.message}"), dialog.dismiss())
        )
        self.page.on("request", self._request)
        self.page.goto(file.as_uri(), wait_until="load")

    def _request(self, request: Any) -> None:
        if not (request.url.startswith("data:") or request.url.endswith("/report.html")):
            self.trouble.append(f"request: {request.url}")

    def open_everything(self) -> None:
        self.page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true })")

    def overflow(self) -> int:
        return self.page.evaluate("document.scrollingElement.scrollWidth - innerWidth")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("told", ["realistic", "hostile"])
def test_it_opens_quietly_and_reads_well(
    browser: Any, pages: dict[str, str], tmp_path: Path, told: str, theme: str
) -> None:
    shown = Watched(browser, pages[told], tmp_path, 1280, theme)
    page = shown.page
    for width, height in ((1280, 900), (390, 844), (320, 640)):
        page.set_viewport_size({"width": width, "height": height})
        box = page.locator("h1").bounding_box()
        assert box["y"] >= 0
        assert box["y"] + (box["height"] if told == "realistic" else 0) <= height, (
            "the verdict is not in view"
        )
        assert shown.overflow() <= 0, width
        if told == "realistic" and width > 320:
            shot = tmp_path / f"{width}-{theme}.png"
            page.screenshot(path=shot, full_page=True)
            assert shot.stat().st_size > 50_000

    shown.open_everything()
    for width in (320, 1280):
        page.set_viewport_size({"width": width, "height": 800})
        assert shown.overflow() <= 0, width
        worst = page.evaluate(CONTRAST)
        assert len(worst) > 200
        assert worst[0][0] >= 4.5, worst[:5]

    assert page.evaluate("document.scripts.length") == 0
    assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    assert page.evaluate("getComputedStyle(document.body).marginTop") == "0px", "the style sheet was refused"
    assert shown.trouble == []
    shown.context.close()


def test_one_drawing_of_each_is_shown_and_it_is_not_shrunk(
    browser: Any, pages: dict[str, str], tmp_path: Path
) -> None:
    for width in (1280, 390):
        shown = Watched(browser, pages["realistic"], tmp_path, width, "light")
        sizes = shown.page.evaluate(
            """[...document.querySelectorAll('figure svg[role=img] text')].filter(t => t.getClientRects().length)
               .map(t => parseFloat(t.getAttribute('font-size')) * t.ownerSVGElement.getBoundingClientRect().width
                         / t.ownerSVGElement.viewBox.baseVal.width)"""
        )
        assert len(sizes) > 50
        assert min(sizes) >= 8, "text in a drawing is too small to read"
        twice = shown.page.evaluate(
            """[...document.querySelectorAll('.wide')].filter(w => w.getClientRects().length
               && w.nextElementSibling.getClientRects().length).length"""
        )
        assert twice == 0
        shown.context.close()


def test_it_prints(browser: Any, pages: dict[str, str], tmp_path: Path) -> None:
    shown = Watched(browser, pages["realistic"], tmp_path, 1280, "dark")
    shown.page.emulate_media(media="print")
    ink = shown.page.evaluate("getComputedStyle(document.body).color")
    assert ink == "rgb(28, 32, 38)"  # dark ink, even where the screen is dark
    assert not shown.page.locator(".contents").is_visible()
    pdf = shown.page.pdf(format="A4")
    assert pdf.startswith(b"%PDF")
    (tmp_path / "report.pdf").write_bytes(pdf)
    assert shown.trouble == []
    shown.context.close()
