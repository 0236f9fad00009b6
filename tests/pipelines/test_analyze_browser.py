"""The report of an analysis in a real browser, as wide as a telephone and as a desk's screen."""

import json
import re
import shutil
import subprocess
from html import escape, unescape
from pathlib import Path

import pytest

import dreamtune
from tests.pipelines.tiny_adapters import adapter_on

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")]
MEASURE = """
const frame = document.querySelector("iframe"), told = {};
frame.onload = () => {
  const page = frame.contentDocument, root = page.documentElement;
  told.width = frame.contentWindow.innerWidth;
  told.scroll = root.scrollWidth;
  told.broken = [...page.images].filter(it => !it.complete || !it.naturalWidth).length;
  told.pictures = page.images.length;
  told.unnamed = [...page.images].filter(it => !it.alt).length;
  told.captions = [...page.querySelectorAll("figcaption")].map(it => it.innerText.length);
  told.small = [...page.querySelectorAll("p, li, td, th, figcaption, dd")]
    .filter(it => parseFloat(getComputedStyle(it).fontSize) < 14).length;
  told.wide = [...page.querySelectorAll("table, img")]
    .filter(it => it.getBoundingClientRect().width > told.width && !it.closest(".wide")).length;
  document.querySelector("pre").textContent = JSON.stringify(told);
};
"""


@pytest.fixture(scope="module")
def report(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with every kind of figure but the trajectory."""
    folder = tmp_path_factory.mktemp("report")
    names = ("a-subject-with-a-long-name", "other", "third")
    files = [adapter_on(tiny, folder / f"{name}.safetensors", seed=seed) for seed, name in enumerate(names)]
    dreamtune.analyze(files, folder / "out", base=str(tiny), steps=1, timestep_profile=True)
    return folder / "out" / "report.html"


def opened(page: Path, width: int, height: int = 900) -> tuple[str, str]:
    """The page's document after its scripts, and what the browser told on the way."""
    assert CHROMIUM is not None
    arguments = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--enable-logging=stderr"]
    profile = page.parent / "profile"
    done = subprocess.run(
        [CHROMIUM, *arguments, f"--user-data-dir={profile}", f"--window-size={width},{height}", "--dump-dom", page],
        capture_output=True, text=True, timeout=240, check=True,
    )  # fmt: skip
    return done.stdout, done.stderr


@pytest.mark.parametrize("width", [390, 1280])
def test_readable_without_a_sideways_scroll(report: Path, tmp_path: Path, width: int) -> None:
    inside = escape(report.read_text())
    frame = f'<iframe srcdoc="{inside}" style="width:{width}px;height:800px;border:0"></iframe>'
    around = tmp_path / "around.html"
    around.write_text(f"<meta charset=utf-8><script>addEventListener('DOMContentLoaded', () => {{{MEASURE}}})</script>"
                      f"<body>{frame}<pre></pre>")  # fmt: skip
    document, console = opened(around, 1400)
    found = re.search(r"<pre>(.+?)</pre>", document)
    assert found, document[-2000:]
    told = json.loads(unescape(found[1]))
    assert told["width"] == width
    assert told["scroll"] <= width, "the page itself does not scroll sideways"
    assert (told["broken"], told["unnamed"], told["small"], told["wide"]) == (0, 0, 0, 0)
    assert told["pictures"] == len(told["captions"]) == 9
    assert min(told["captions"]) > 60
    assert "CONSOLE" not in console, console


def test_no_error_in_the_console(report: Path) -> None:
    """And what one would look like."""
    _, console = opened(report, 1280)
    assert "CONSOLE" not in console, console
    faulty = report.with_name("faulty.html")
    faulty.write_text(report.read_text().replace("</body>", "<script>nowhere()</script><img src=gone.png></body>"))
    _, console = opened(faulty, 1280)
    assert "CONSOLE" in console and "nowhere" in console
