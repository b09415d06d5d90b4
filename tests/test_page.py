"""The page in a real browser: a photo and its classes, an error, images that grow, before and
after; keyboard and phone.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
from PIL import Image
from scipy.special import softmax
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait
from sklearn.datasets import load_digits

import tintype
from tintype.pages.report import write_report
from tintype.verbs.audit.decide import deciding
from tintype.verbs.audit.doubts import Doubts
from tintype.verbs.audit.labels import assess
from tintype.verbs.board import make_server
from tintype.verbs.serve import server
from tintype.verbs.serve.app import make_app
from tintype.verbs.serve.loading import load
from tintype.verbs.serve.service import Settings

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
)
PHONE, DESK = (390, 844), (1280, 900)
TOKEN = "-".join(["letters", "for", "a", "test"])

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (BROWSER and DRIVER),
        reason="no chromium with chromedriver here; `make browser` installs them",
    ),
]


@pytest.fixture(scope="module")
def serving(kinds) -> Iterator[Callable[..., str]]:
    """Return a function that starts a service with settings and returns its address."""
    models = [load(name, run.path, "cpu") for name, run in sorted(kinds.items())]
    started: list[tuple[uvicorn.Server, threading.Thread]] = []

    def start(**settings: Any) -> str:
        listening = server._bound("127.0.0.1", 0)
        running = uvicorn.Server(server.configured(make_app(models, Settings(**settings))))
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]})
        started.append((running, thread))
        address = server._address(listening)
        thread.start()
        while not running.started:
            assert thread.is_alive()
            time.sleep(0.01)
        return address

    yield start
    for running, thread in started:
        running.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def address(serving) -> str:
    return serving(max_upload_mb=2)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    folder = tmp_path_factory.mktemp("browser")
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER or ""
    for argument in ARGUMENTS:
        options.add_argument(argument)
    options.add_argument(f"--user-data-dir={folder / 'profile'}")
    options.add_experimental_option(
        "prefs", {"download.default_directory": str(folder / "downloads")}
    )
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(DRIVER, env={**os.environ, "HOME": str(folder)})
    driver = webdriver.Chrome(options=options, service=service)
    driver.downloads = folder / "downloads"  # pyright: ignore[reportAttributeAccessIssue]
    yield driver
    driver.quit()


class Page:
    """The page at an address, as a person uses it."""

    def __init__(
        self, browser: webdriver.Chrome, address: str, model: str = "", size: tuple[int, int] = DESK
    ) -> None:
        self.browser = browser
        browser.set_window_size(*size)
        browser.get("about:blank")  # so that another model of the same address is loaded anew
        browser.get_log("browser")
        browser.get(f"{address}/#{model}")
        if model:
            self.until("h1", text=model)

    def all(self, selector: str) -> list[Any]:
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str) -> Any:
        (found,) = self.all(selector)
        return found

    def until(self, selector: str, *, text: str = "", count: int = 1) -> Any:
        """Wait until so many are shown and the first holds the text; return the first."""

        def there(_: object) -> Any:
            shown = [each for each in self.all(selector) if each.is_displayed()]
            return shown[0] if len(shown) >= count and text in shown[0].text else None

        return WebDriverWait(self.browser, 30, ignored_exceptions=[Exception]).until(
            there, f"{selector} with {text!r}"
        )

    def choose(self, path: Path) -> None:
        self.one("input.choose").send_keys(str(path))

    def complaints(self) -> list[str]:
        """Return what the browser complains of: a script that fails, something that the policy
        forbids.
        """
        return [
            line["message"]
            for line in self.browser.get_log("browser")
            if line["level"] in ("SEVERE", "WARNING")
        ]

    def script(self, text: str, *arguments: Any) -> Any:
        return self.browser.execute_script(text, *arguments)

    def picture(self, selector: str) -> tuple[int, int]:
        """Wait for a picture, and return its width and height in its own pixels."""
        get = "const i = document.querySelector(arguments[0]); return i.complete ? [i.naturalWidth, i.naturalHeight] : [0, 0]"
        return tuple(
            WebDriverWait(self.browser, 20).until(
                lambda _: (s := self.script(get, selector))[0] and s
            )
        )

    def overflow(self) -> int:
        return self.script(
            "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )


@pytest.fixture
def visit(browser, address) -> Callable[..., Page]:
    def go(model: str, size: tuple[int, int] = DESK) -> Page:
        return Page(browser, address, model, size)

    return go


@pytest.fixture(scope="module")
def seven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photos") / "seven.png"
    Image.fromarray(np.rint(load_digits().images[7] * (255 / 16)).astype(np.uint8)).save(path)
    return path


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photos") / "broken.png"
    path.write_bytes(b"this is no picture")
    return path


def test_a_photo_is_classified_and_shown_with_its_heat_map(visit, kinds, seven):
    page = visit("cnn")
    page.choose(seven)
    expected = kinds["cnn"].predict(seven)
    assert page.until(".top", text=expected.top1).text == expected.top1
    rows = [tuple(row.text.split("\n")) for row in page.all(".bars li")]
    assert rows == [(name, f"{100 * share:.1f} %") for name, share in expected.top5]
    assert page.picture(".own img") == (8, 8)
    assert not page.one(".heat").is_displayed()
    page.one(".look input").click()
    assert page.one(".own").is_displayed(), "the photo stays beside its heat map"
    assert page.picture(".heat img")[0] == 112, "the heat map is drawn over an enlarged picture"
    assert page.until(".heat figcaption", text=f"for “{expected.top1}”")
    assert page.one(".choose + span").text == "Another photo"
    assert page.one(".result").get_attribute("aria-live") == "polite"
    assert page.complaints() == []


def test_a_broken_file_is_told_and_the_next_photo_is_answered(visit, seven, broken):
    page = visit("cnn")
    page.choose(broken)
    said = page.until(".classify .error", text="not an image")
    assert said.get_attribute("role") == "alert"
    assert said.text.startswith("broken.png cannot be read as an image")
    assert said.text.endswith("Send JPEG, PNG, WebP, GIF, TIFF or BMP.")
    assert not page.one(".result").is_displayed()
    page.choose(seven)
    page.until(".top", text="")
    assert not page.one(".classify .error").is_displayed()


def test_a_file_that_is_too_large_is_told_without_sending_it(visit, tmp_path):
    (tmp_path / "large.png").write_bytes(bytes(3_000_000))
    page = visit("cnn")
    page.choose(tmp_path / "large.png")
    page.until(".classify .error", text="large.png has 3 MB; at most 2 MB")


def test_a_photo_can_be_dropped_and_pasted(visit, kinds, seven):
    page = visit("cnn")
    send = """
      const bytes = Uint8Array.from(arguments[1]), data = new DataTransfer();
      data.items.add(new File([bytes], "seven.png", { type: "image/png" }));
      const event = arguments[0] === "drop" ? new DragEvent("drop", { dataTransfer: data, cancelable: true })
                                            : new ClipboardEvent("paste", { clipboardData: data });
      document.dispatchEvent(event);
    """
    for how in ("drop", "paste"):
        page = visit("cnn")
        page.script(send, how, list(seven.read_bytes()))
        page.until(".top", text=kinds["cnn"].predict(seven).top1)


def test_a_photo_unlike_the_training_images_is_said_to_be_so_and_nothing_is_promised(
    visit, seven, tmp_path
):
    with Image.open(seven) as image:
        Image.fromarray(255 - np.asarray(image)).save(tmp_path / "ink.png")
    page = visit("digits")
    page.choose(tmp_path / "ink.png")
    said = page.until(".sure", text="unlike the training images").text
    assert said.startswith("This image is unlike the training images: it is dark on light")
    assert said.endswith("Its confidence does not apply.")
    assert "validation" not in said
    page.choose(seven)
    said = page.until(".sure", text="sure").text
    assert "unlike" not in said
    assert "unlike" not in page.one(".sure").get_attribute("class")


def test_a_test_image_can_be_tried(visit, kinds, finished_run):
    page = visit("digits")
    page.one(".try").click()
    name = page.until(".own figcaption", text="test image").text
    files = sorted((finished_run.path / "samples").glob("test-*[0-9].png"))
    number = int(name.removeprefix("test image ").removesuffix(".png")) - 1
    page.until(".top", text=kinds["digits"].predict(files[number]).top1)
    assert page.one(".try").text == "Another test image"
    assert page.complaints() == []


def test_the_models_wrap_on_a_phone(visit):
    page = visit("cnn", PHONE)
    assert all(
        button.rect["x"] + button.rect["width"] <= PHONE[0] for button in page.all(".models button")
    )


def test_a_network_without_maps_offers_none(visit, kinds, seven):
    page = visit("digits")
    page.choose(seven)
    page.until(".top", text=kinds["digits"].predict(seven).top1)
    assert not page.one(".look").is_displayed()


def test_the_report_is_one_click_away_and_draws_its_figures(visit, finished_run):
    page = visit("digits")
    page.one("a.report").click()
    page.until("h1", text=finished_run.name)
    WebDriverWait(page.browser, 60).until(lambda _: len(page.all("figure.chart.drawn")) > 2)
    assert page.script("return self.origin") == "null", "it is shut in a sandbox"


ALL_DRAWN = "return [...document.querySelectorAll('figure.chart')].every((c) => c.classList.contains('drawn'))"
LEGENDS_OVER_PLOTS = """
  return [...document.querySelectorAll("figure.chart")].filter((chart) => {
    const legend = chart.querySelector(".legend"), plot = chart.querySelector(".cartesianlayer");
    return legend && legend.getBoundingClientRect().top < plot.getBoundingClientRect().bottom - 1;
  }).map((chart) => chart.dataset.chart);
"""


@pytest.mark.parametrize("name", ["cnn", "gan", "sharp"])
def test_a_report_begins_with_the_result_and_fits_a_phone(browser, kinds, tmp_path, name):
    path = write_report(Path(shutil.copytree(kinds[name].path, tmp_path / name)))
    for size in (PHONE, DESK):
        browser.set_window_size(*size)
        browser.get("about:blank")
        browser.get_log("browser")
        browser.get(path.as_uri())
        WebDriverWait(browser, 60).until(lambda _: browser.execute_script(ALL_DRAWN))
        contents = browser.find_element(By.CSS_SELECTOR, ".contents details")
        assert (contents.get_attribute("open") is not None) == (size == DESK)
        assert browser.find_element(By.ID, "result").location["y"] < size[1] / 2, (
            "the answer is on the first screen"
        )
        wide = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert browser.execute_script(wide) == 0, size
        assert browser.execute_script(LEGENDS_OVER_PLOTS) == []
        assert [
            line["message"] for line in browser.get_log("browser") if line["level"] == "SEVERE"
        ] == []


def test_images_are_made_and_the_grid_grows(visit, kinds):
    page = visit("gan")
    page.until(".grid img", count=16)
    seed = page.one("input[name=seed]")
    seed.clear()
    seed.send_keys("5")
    page.one(".controls .primary").click()
    page.until(".generate .status", text="seed 5")
    page.until(".grid img", count=16)
    page.one("button.more").click()
    page.until(".grid img", count=32)
    page.until(".generate .status", text="32 images of seed 5: same seed, same images")
    read = """
      const canvas = document.createElement("canvas"), image = document.querySelectorAll(".grid img")[arguments[0]];
      canvas.width = canvas.height = 8;
      const context = canvas.getContext("2d");
      context.drawImage(image, 0, 0);
      return [...context.getImageData(0, 0, 8, 8).data].filter((_, i) => i % 4 === 0);
    """
    expected = kinds["gan"].generate(32, seed=5)[:, :, :, 0]
    for i in (0, 15, 16, 31):
        assert page.script(read, i) == expected[i].reshape(-1).tolist(), (
            "image i of the seed, whatever was asked first"
        )
    assert page.all(".grid img")[17].get_attribute("alt") == "image 17, made as 7"
    assert page.complaints() == []


def test_a_photo_is_enlarged_with_a_slider_and_a_download(visit, kinds, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    page = visit("sharp")
    page.choose(tmp_path / "photo.png")
    page.until(".sizes", text="60 × 40 became 120 × 80 pixels")
    assert page.picture("img.after") == (120, 80)
    slider = page.one(".pair input")
    width = page.script("return document.querySelector('.pair').clientWidth")
    clip = "return getComputedStyle(document.querySelector('.before')).clipPath"
    assert "50%" in page.script(clip)
    slider.send_keys(Keys.ARROW_RIGHT * 40)
    assert slider.get_attribute("aria-valuetext") == "70 % as it was"
    assert "30%" in page.script(clip), "so much is cut off at the right"
    line = page.script("const l = document.querySelector('.pair .line'); return l.offsetLeft + 1")
    assert line == pytest.approx(0.7 * width, abs=2)
    page.one("a.download").click()
    saved = page.browser.downloads / "photo-x2.png"  # pyright: ignore[reportAttributeAccessIssue]
    WebDriverWait(page.browser, 20).until(lambda _: saved.exists())
    with Image.open(io.BytesIO(saved.read_bytes())) as image:
        assert np.array_equal(np.asarray(image), kinds["sharp"].upscale(pixels))
    assert page.complaints() == []


def test_a_broken_file_to_enlarge_is_told(visit, broken):
    page = visit("sharp")
    page.choose(broken)
    page.until(".upscale .error", text="cannot be read")
    assert not page.one(".compare").is_displayed()


def test_everything_is_reached_by_keyboard_and_the_focus_is_seen(visit):
    page = visit("cnn")
    page.script("document.activeElement.blur()")
    reached = []
    for _ in range(20):
        ActionChains(page.browser).send_keys(Keys.TAB).perform()
        focus = page.browser.switch_to.active_element
        reached.append(
            (focus.get_attribute("class") or focus.text or focus.tag_name).split("\n")[0]
        )
        if focus.tag_name not in ("body", "html"):
            outlined = "const e = arguments[0].closest('.button') || arguments[0]; return getComputedStyle(e).outlineStyle"
            assert page.script(outlined, focus) != "none", reached[-1]
    for wanted in ("skip", "wordmark", "API", "theme", "gan", "sharp", "choose"):
        assert wanted in reached
    for button in page.all(".models button"):
        if button.text.startswith("gan"):
            button.send_keys(Keys.ENTER)
    page.until("h1", text="gan")


def test_every_control_has_a_name(visit):
    for model in ("cnn", "gan", "sharp"):
        page = visit(model)
        nameless = """
          return [...document.querySelectorAll("input, select, button, a")].filter((each) => each.checkVisibility())
            .filter((each) => !(each.textContent.trim() || each.ariaLabel || each.labels?.[0]?.textContent.trim()))
            .map((each) => each.outerHTML);
        """
        assert page.script(nameless) == []


@pytest.mark.parametrize("model", ["cnn", "gan", "sharp"])
def test_nothing_is_cut_off_on_a_phone(visit, model, seven, tmp_path):
    page = visit(model, PHONE)
    if model != "gan":
        Image.fromarray(np.zeros((300, 900, 3), np.uint8)).save(tmp_path / "wide.png")
        page.choose(tmp_path / "wide.png")
    page.until({"cnn": ".bars li", "gan": ".grid img", "sharp": ".sizes"}[model])
    assert page.overflow() == 0
    if model == "sharp":
        assert (
            page.script("return document.querySelector('.pair').getBoundingClientRect().right")
            <= PHONE[0]
        )


def test_light_and_dark_are_kept(visit):
    page = visit("cnn")
    paper = "return getComputedStyle(document.body).backgroundColor"
    before = page.script(paper)
    page.one("button.theme").click()
    after = page.script(paper)
    assert before != after
    assert visit("gan").script(paper) == after
    page.script("localStorage.clear()")


def test_a_token_is_asked_for_once(browser, serving, kinds, seven):
    page = Page(browser, serving(token=TOKEN))
    page.until("dialog[open] input").send_keys("wrong", Keys.ENTER)
    page.until("dialog .error", text="not the token")
    page.one("dialog input").clear()
    page.one("dialog input").send_keys(TOKEN, Keys.ENTER)
    page.until("h1", text="cnn")
    page.choose(seven)
    page.until(".top", text=kinds["cnn"].predict(seven).top1)
    assert page.script("return document.cookie") == "", "no script reads it"


# ---- the board --------------------------------------------------------------------------------------------------------


@pytest.fixture
def board(tmp_path: Path) -> Iterator[str]:
    """The board of two runs of a study, one that generates, and one that has not begun."""

    def write(
        name: str, task: str, state: dict[str, Any], metrics: str, figures: dict[str, Any]
    ) -> None:
        run = tmp_path / "runs" / name
        run.mkdir(parents=True)
        (run / "recipe.yaml").write_text(f"task: {task}\ndata: digits\n", encoding="utf-8")
        (run / "status.json").write_text(json.dumps(state), encoding="utf-8")
        if metrics:
            (run / "metrics.csv").write_text(metrics, encoding="utf-8")
        if figures:
            (run / "evaluation.json").write_text(json.dumps({"splits": figures}), encoding="utf-8")

    done = {"state": "finished"}
    for name, share in (("poor", 0.5), ("good", 0.9)):
        figures = {"val": {"accuracy": share}, "test": {"accuracy": share - 0.1}}
        write(
            f"widths/{name}", "classify", done, f"step,loss,val_accuracy\n5,1.0,{share}\n", figures
        )
    distances = {"val": {"fd_pixels8": 0.4}, "test": {"fd_pixels8": 0.5}}
    write("gan", "generate", done, "step,val_fd_pixels8\n5,0.4\n", distances)
    write("soon", "classify", {"state": "running", "step": 0, "total_steps": 50}, "", {})
    (tmp_path / "runs" / "widths" / "study.yaml").write_text("recipe: digits\n", encoding="utf-8")
    (tmp_path / "runs" / "widths" / "study.html").write_text("a study", encoding="utf-8")
    with make_server(tmp_path / "runs", port=0) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()
        thread.join()


def test_the_board_groups_studies_names_figures_and_sorts(browser, board):
    page = Page(browser, board)
    page.until("#rows tr", count=5)

    def rows() -> list[list[str]]:
        # in one call, since the board replaces its rows while it is read
        return page.script(
            "return [...document.querySelectorAll('#rows tr')]"
            ".map(row => [...row.querySelectorAll('th, td')].map(cell => cell.innerText.trim()))"
        )

    by_name = {row[1]: row for row in rows() if len(row) > 1}
    assert ["widths · 2 runs"] in rows()
    assert by_name["good"][2:4] == ["80.00 %\naccuracy", "90.00 %\naccuracy\nbest on digits"]
    assert by_name["poor"][3] == "50.00 %\naccuracy"
    assert by_name["gan"][2] == "0.5000\nFréchet distance, lower is better"
    assert by_name["soon"][4] == "preparing"
    page.one("[data-sort=test]").click()
    assert page.one("th[aria-sort]").text.startswith("Test")
    names = [row[1] for row in rows() if len(row) > 1]
    assert names.index("good") < names.index("poor")
    page.one("[data-sort=test]").click()
    names = [row[1] for row in rows() if len(row) > 1]
    assert names.index("poor") < names.index("good")
    assert page.complaints() == []


def test_on_a_phone_the_result_stands_beside_the_name(browser, board):
    page = Page(browser, board, size=PHONE)
    page.until("#rows tr", count=5)
    assert page.overflow() == 0
    assert (
        max(cell.rect["x"] + cell.rect["width"] for cell in page.all("#rows td:nth-child(3)"))
        <= PHONE[0]
    )


# ---- labels to decide -------------------------------------------------------------------------------------------------


@pytest.fixture
def desk(digit_files: Path, tmp_path: Path, monkeypatch) -> Iterator[tuple[str, Path]]:
    """The page on which labels of digits are decided, of which two sevens look like threes."""
    monkeypatch.setenv("TINTYPE_CACHE", str(tmp_path / "cache"))
    inspected = tintype.audit(digit_files, labels=False).inspected
    features = 5.0 * np.eye(10)[inspected.targets]
    sevens = np.flatnonzero(inspected.targets == 7)[:2]
    features[sevens] = 9.0 * np.eye(10)[3] + np.eye(10)[[7, 8]]
    doubts = Doubts(inspected, assess(softmax(features, axis=1), inspected.targets), features)
    with deciding(doubts, tmp_path / "decided.csv", 0) as (running, address):
        thread = threading.Thread(target=running.serve_forever, args=(0.05,))
        thread.start()
        yield address, tmp_path / "decided.csv"
        running.shutdown()
        thread.join()


@pytest.mark.parametrize("size", [PHONE, DESK])
def test_labels_are_decided_by_the_keyboard(browser, desk, size):
    address, manifest = desk
    page = Page(browser, address.rstrip("/"), size=size)
    page.until("#given", text="7")
    page.until("#looks", text="looks like 3")
    page.until(".near img", count=8)
    assert page.overflow() == 0
    first = page.one("#name").text

    def press(*keys: str) -> None:
        ActionChains(browser).send_keys(*keys).perform()

    press(Keys.ENTER)
    page.until("#progress", text="1 of 2 doubtful labels decided: 0 kept, 1 relabelled")
    page.until("#place", text="2 of 2")
    assert page.one("#name").text != first
    press("d")
    page.until("#done-title", text="All 2 doubtful labels are decided.")
    press("u")
    page.until("#progress", text="1 of 2")
    press("/")
    press("elev", Keys.ENTER)
    assert page.one("#class").get_property("validationMessage") == "There is no such class."
    press(*[Keys.BACKSPACE] * 4, "5", Keys.ENTER)
    page.until("#done-title", text="All 2 doubtful labels are decided.")

    browser.refresh()
    page.until("#done-title", text="All 2 doubtful labels are decided.")
    press(Keys.ARROW_LEFT)
    page.until("#decided", text="Decided: relabelled as 5")
    press("1")
    page.until("#done-title", text="All 2")
    press("u")
    page.until("#decided", text="Decided: relabelled as 5")
    assert [line for line in page.complaints() if "409" not in line] == []
    for _ in range(100):
        labels = [line.rpartition(",")[2] for line in manifest.read_text("utf-8").split()[1:]]
        if labels.count("5") == 13:
            break
        time.sleep(0.05)
    assert (labels.count("3"), labels.count("5"), labels.count("7")) == (13, 13, 10)
