"""The app in a real browser, from dropping pictures to drawing what was learned.

Screenshots go to the folder $DREAMTUNE_SCREENS, if it is set, to be looked at.
"""

import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from dreamtune.pipelines.jobs.queue import Jobs
from tests.tiny_models import pictures
from tests.ui.evil import HTML
from tests.ui.serving import Served, served

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

pytestmark = [pytest.mark.browser, pytest.mark.timeout(1800)]
PATIENCE = 300_000
"""Milliseconds: machines that test are slow and shared."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("browser") / "home", worker=True) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert program, "no Chromium on this machine: apt-get install chromium"
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def errors() -> list[str]:
    return []


@pytest.fixture
def page(browser: "Browser", server: Served, errors: list[str]) -> Iterator["Page"]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    made = context.new_page()
    open_page(made, server, errors)
    yield made
    context.close()
    assert errors == []


def open_page(page: "Page", server: Served, errors: list[str], query: str = "") -> None:
    page.set_default_timeout(PATIENCE)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda it: errors.append(it.text) if it.type == "error" else None)
    page.goto(server.url + query)
    page.locator("#train-start").wait_for()
    page.locator("#train-pictures img").first.wait_for()


def tab(page: "Page", name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).click()


def field(page: "Page", id: str) -> "Locator":
    return page.locator(f"#{id} input, #{id} textarea").first


def shot(page: "Page", name: str) -> None:
    if folder := os.environ.get("DREAMTUNE_SCREENS"):
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


def train(page: "Page", steps: int) -> None:
    """Start a training that takes a moment."""
    page.get_by_role("button", name="More settings").first.click()
    field(page, "train-steps").fill(str(steps))
    field(page, "train-sample").fill("2")
    field(page, "train-prior").uncheck()
    field(page, "train-more").fill("batch_size: 1\nsampling_steps: 2")
    # Again: what is written in the instant in which the settings open, as no hand can, may not reach the page's state.
    field(page, "train-steps").fill(str(steps))
    page.locator("#train-start").click()


def told(picture: Path) -> str:
    """How a picture was made, as its file says."""
    with Image.open(picture) as opened:
        return str(opened.info)


def status(page: "Page", state: str) -> None:
    page.locator(f".dt-job[data-state={state}]:visible").first.wait_for()


def test_from_dropped_pictures_to_a_picture(page: "Page", server: Served, tmp_path: Path, errors: list[str]) -> None:
    files = sorted(pictures(tmp_path / "dog").glob("*.png"))
    page.locator("#train-drop input[type=file]").set_input_files([str(file) for file in files])
    page.locator("#train-pictures [data-checked=yes]").wait_for()
    assert "3 of 3 images are usable" in page.locator("#train-pictures").inner_text()
    field(page, "train-class").fill("dog")
    train(page, 4)
    status(page, "running")
    page.reload()  # in the middle: it is still there
    page.locator(".dt-job:visible").first.wait_for()
    second = page.context.new_page()
    open_page(second, server, errors)
    second.locator(".dt-job:visible").first.wait_for()
    second.close()
    status(page, "done")
    page.locator(".dt-samples img").first.wait_for()
    shot(page, "train")
    page.locator("#train-draw").click()
    page.locator("#generated").wait_for()
    page.locator("#generate-n input[type=number]").fill("1")
    page.locator("#generate").click()
    page.locator("#generated img").first.wait_for()
    assert len(list(server.workspace.pictures.glob("*.png"))) >= 1
    shot(page, "generate")


def test_stop_and_resume(page: "Page", server: Served) -> None:
    train(page, 60)
    page.locator(".dt-job:visible", has_text=re.compile(r"training \d+ of 60")).first.wait_for()
    page.get_by_role("button", name="Stop", exact=True).locator("visible=true").click()
    status(page, "interrupted")
    page.get_by_role("button", name="Resume", exact=True).locator("visible=true").click()
    status(page, "done")
    tab(page, "Jobs")
    page.locator("#jobs table").wait_for()
    page.get_by_role("button", name=re.compile("^Log: sample-cat|^Log: cat")).first.click()
    page.locator("#jobs-log pre").wait_for()
    shot(page, "jobs")


def choose(page: "Page", *names: str) -> None:
    """Choose adapters in the open tab, and nothing else."""
    field = page.get_by_label("Adapters").locator("visible=true").first
    field.click()
    for _ in range(4):
        page.keyboard.press("Backspace")
    for name in names:
        field.click()
        page.get_by_role("option", name=name, exact=True).click()
    page.keyboard.press("Escape")


def test_fuse_two_and_analyze_two(page: "Page", server: Served) -> None:
    """The two that the tests above train: the page has given each a word of its own."""
    one, two = [path.parent.name for path in server.workspace.runs.glob("*/adapter.safetensors")][:2]
    twin = server.workspace.adapters / "twin.safetensors"
    shutil.copy(server.workspace.runs / one / "adapter.safetensors", twin)
    tab(page, "Fuse")
    choose(page, one, "twin")
    page.locator("#fuse-start").click()
    page.get_by_text("no prompt can tell them apart").first.wait_for()  # in the command line's words
    status(page, "done")
    choose(page, one, two)
    page.locator("#fuse-start").click()
    page.locator(".dt-job[data-state=done]:visible", has_text=two).first.wait_for()
    shot(page, "fuse")
    tab(page, "Generate")
    (fused,) = {path.stem for path in server.workspace.adapters.glob("*.safetensors")} - {"twin", f"{one}-twin"}
    choose(page, fused)
    page.locator("#generate-n input[type=number]").fill("1")
    before = set(server.workspace.pictures.glob("*.png"))
    page.locator("#generate").click()
    page.locator("#generated img").first.wait_for()
    drawn = set(server.workspace.pictures.glob("*.png")) - before
    assert any(f"{fused}.safetensors" in told(path) for path in drawn)
    tab(page, "Analyze")
    choose(page, one, two)
    page.locator("#analyze-start").click()
    page.locator("#analyze-page iframe").wait_for()
    shot(page, "analyze")


def test_wrong_files_are_told_and_names_are_inert(page: "Page", server: Served, tmp_path: Path) -> None:
    for name, content in (("evil.pt", b"\x80\x04"), ("evil.svg", b"<svg/>")):
        (tmp_path / name).write_bytes(content)
    page.locator("#train-drop input[type=file]").set_input_files(str(tmp_path / "evil.svg"))
    page.get_by_text("Invalid file type").or_(page.get_by_text("is not an image")).first.wait_for()
    jobs = Jobs(server.workspace.jobs)
    config = {"images": server.workspace.datasets / "sample-cat", "class_word": "cat"}
    job = jobs.submit("train", config, server.workspace.runs / "inert", title=HTML)
    tab(page, "Jobs")
    page.get_by_role("button", name="Refresh").click()
    page.locator("#jobs td", has_text="onerror").wait_for()
    tab(page, "Library")
    page.locator("#library .dt-card", has_text="healthy").first.wait_for()
    tab(page, "Train")
    page.locator(".dt-job:visible", has_text="onerror").wait_for()
    assert page.evaluate("window.pwned") is None
    (jobs.cancel if jobs.get(job.id).state == "queued" else jobs.stop)(job.id)
    field(page, "train-class").fill("${globalThis.pwned=1}{x}")
    page.locator("#train-start").click()
    page.get_by_text("must be plain words on one line").first.wait_for()
    assert page.evaluate("window.pwned") is None


LABELS = """() => [...document.querySelectorAll('input, textarea, select, button, [role=progressbar], iframe, img')]
  .filter((it) => it.offsetParent !== null && it.type !== 'file')
  .filter((it) => !(it.ariaLabel || it.title || it.alt || it.labels?.length || it.innerText?.trim()
    || it.getAttribute('aria-labelledby') || it.closest('label')?.innerText.trim()))
  .map((it) => it.outerHTML.slice(0, 200))"""
CONTRAST = """() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((it) => it / 255)
    .map((it) => it <= 0.03928 ? it / 12.92 : ((it + 0.055) / 1.055) ** 2.4)
    .reduce((sum, it, i) => sum + it * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (it) => { for (; it; it = it.parentElement) {
    const color = parse(getComputedStyle(it).backgroundColor);
    if (color.length < 4 || color[3] > 0.99) return color; } return [255, 255, 255]; };
  const own = (it) => [...it.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
  return [...document.querySelectorAll('.gradio-container *')].filter((it) => own(it) && it.offsetParent !== null)
    .filter((it) => !it.closest('footer, [disabled], .dt-canvas, svg'))
    .map((it) => { const [a, b] = [parse(getComputedStyle(it).color), ground(it)].map(light).sort((x, y) => x - y);
      return [(b + 0.05) / (a + 0.05), it.innerText.trim().slice(0, 60), it.className]; })
    .filter(([ratio]) => ratio < 4.5).map((it) => it.join(' | ')); }"""
TABS = ("Train", "Generate", "Fuse", "Analyze", "Jobs", "Library")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_every_control_is_labelled_and_can_be_read(
    browser: "Browser", server: Served, errors: list[str], dark: bool
) -> None:
    context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme="dark" if dark else "light")
    page = context.new_page()
    open_page(page, server, errors, "/?__theme=dark" if dark else "/?__theme=light")
    for name in TABS:
        tab(page, name)
        time.sleep(1.5)
        assert page.evaluate(LABELS) == [], name
        assert page.evaluate(CONTRAST) == [], name
        shot(page, f"{name.lower()}-{'dark' if dark else 'light'}")
    context.close()
    assert errors == []


def test_the_keyboard_reaches_everything_in_order(page: "Page") -> None:
    seen: list[str] = []
    page.keyboard.press("Tab")
    for _ in range(40):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.id || ''"))
    assert seen.index("train-plan") < seen.index("train-start")
    tab(page, "Fuse")
    box = page.locator(".dt-box").first
    box.focus()
    before = box.bounding_box()
    page.keyboard.press("ArrowRight")
    after = page.locator(".dt-box").first.bounding_box()
    assert before and after and after["x"] > before["x"]
    page.keyboard.press("Delete")
    assert page.locator(".dt-box").count() == 1


def test_a_phone_shows_all_of_it(browser: "Browser", server: Served, errors: list[str]) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844})
    page = context.new_page()
    open_page(page, server, errors)
    for name in TABS:
        if page.get_by_role("tab", name=name, exact=True).count():
            tab(page, name)
        else:  # there is no room for it beside the others
            page.get_by_label("More tabs").click()
            page.locator(".overflow-dropdown button", has_text=name).click()
        time.sleep(1)
        assert page.evaluate("document.documentElement.scrollWidth") <= 391, name
        shot(page, f"{name.lower()}-phone")
    context.close()


def test_a_login_is_asked_for(browser: "Browser", tmp_path: Path) -> None:
    with served(tmp_path / "home", "--auth", "me:long-password") as locked:
        page = browser.new_page()
        page.set_default_timeout(PATIENCE)
        page.goto(locked.url)
        page.get_by_label("username").fill("me")
        page.get_by_label("password").fill("guess-guess")
        page.get_by_role("button", name="Login").click()
        page.get_by_text(re.compile("incorrect|invalid", re.IGNORECASE)).first.wait_for()
        page.get_by_label("username").fill("me")
        page.get_by_label("password").fill("long-password")
        page.get_by_role("button", name="Login").click()
        page.locator("#train-start").wait_for()
        page.close()
