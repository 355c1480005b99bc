"""The page in a real browser: Chromium without a window, as Debian's chromium and chromium-driver install it.

A screenshot of each test is left in the folder named by ``OVERNIGHT_ARTIFACTS``, else in pytest's temporary folder.
"""

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait
from serve.conftest import start_server

from overnight.evaluate.load import ByteModel
from overnight.evaluate.transfer import Classifier, FeatureKind
from overnight.evaluate.transfer.logistic import Logistic

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None, reason="needs chromium and chromedriver (Debian: chromium, chromium-driver)"
)
WORDS = (
    "--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-default-apps"
)
HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script> caf\u00e9 &lt;b&gt;"


@pytest.fixture(scope="module")
def classified(run: Path, model: ByteModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run with a classifier."""
    folder = tmp_path_factory.mktemp("classified") / "<b>run"
    shutil.copytree(run, folder)
    draw = np.random.default_rng(0)
    classifier = Classifier(
        Logistic(draw.normal(size=(1, 16)), draw.normal(size=1)),
        ("<i>bad", "good"),
        model.digest,
        FeatureKind(layer=0),
        best_unit=3,
    )
    classifier.save(folder / "transfer" / "reviews")
    return folder


@pytest.fixture(scope="module")
def page(classified: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where it is served."""
    server = start_server(classified, tmp_path_factory.mktemp("logs"))
    yield next(server)
    for _ in server:
        pass


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One browser for all."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for word in WORDS.split():
        options.add_argument(word)
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('chromium')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.set_page_load_timeout(120)
    yield driver
    driver.quit()


@pytest.fixture
def browser(chromium: Any, page: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    """The page, read once; afterwards its screenshot is kept and its console must be silent."""
    open_page(chromium, page)
    yield chromium
    kept = Path(os.environ.get("OVERNIGHT_ARTIFACTS", tmp_path))
    kept.mkdir(parents=True, exist_ok=True)
    whole = chromium.execute_script("return document.documentElement.scrollHeight")
    size_of(chromium, chromium.execute_script("return innerWidth"), whole)
    assert chromium.save_screenshot(str(kept / f"serve-{request.node.name}.png"))
    assert chromium.get_log("browser") == []


def size_of(driver: Any, width: int, height: int) -> None:
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def open_page(driver: Any, page: str, width: int = 1180, scheme: str = "light") -> None:
    driver.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    size_of(driver, width, 1000)
    driver.get(page)
    until(driver, lambda: shown(driver) and driver.find_elements(By.CSS_SELECTOR, "#chart path.training"))


def until(driver: Any, condition: Any) -> Any:
    wait = WebDriverWait(driver, 100, poll_frequency=0.05, ignored_exceptions=[StaleElementReferenceException])
    return wait.until(lambda _: condition())


def text_of(driver: Any, name: str) -> str:
    return str(driver.find_element(By.ID, name).get_property("textContent"))


def shown(driver: Any) -> str:
    return text_of(driver, "coloured")


def type_in(driver: Any, text: str) -> None:
    field = driver.find_element(By.ID, "text")
    field.clear()
    field.send_keys(text)


def colours(driver: Any, name: str = "coloured") -> list[str]:
    script = "return [...document.querySelectorAll(arguments[0])].map((one) => getComputedStyle(one).backgroundImage"
    return list(driver.execute_script(script + " + getComputedStyle(one).backgroundColor)", f"#{name} span"))


def test_typed_text_is_coloured_byte_by_byte(browser: Any, model: ByteModel) -> None:
    assert shown(browser).startswith("\u21b5 I loved the first half")
    before = text_of(browser, "bits")
    type_in(browser, "The night of the model.")
    until(browser, lambda: shown(browser) == "\u21b5 The night of the model. ")
    assert float(text_of(browser, "bits")) == pytest.approx(model.score(["The night of the model."])[0] / 25, abs=0.01)
    assert text_of(browser, "bits") != before
    assert text_of(browser, "said").startswith(f"{text_of(browser, 'bits')} bits per byte, ")
    found = colours(browser)
    assert len(found) == 26
    assert len(set(found)) > 5, "bytes of other values have other colours"
    assert browser.find_element(By.ID, "unit").get_property("value") == "3", "the classifier's best unit"
    webdriver.ActionChains(browser).move_to_element(browser.find_element(By.ID, "name")).perform()
    for index, span in enumerate(browser.find_elements(By.CSS_SELECTOR, "#coloured span")[2:6], start=2):
        webdriver.ActionChains(browser).move_to_element(span).perform()
        until(browser, lambda index=index: text_of(browser, "readout").startswith(f"Byte {index} of 25: "))
    chips = browser.find_elements(By.CSS_SELECTOR, "#top button")
    other = next(one for one in chips if one.get_attribute("aria-pressed") == "false")
    unit = other.get_attribute("data-unit")
    other.click()
    until(browser, lambda: f"unit {unit}" in (browser.find_element(By.ID, "spark").get_attribute("aria-label") or ""))
    assert colours(browser) != found
    browser.find_element(By.CSS_SELECTOR, "label[for=by-bits]").click()
    until(browser, lambda: text_of(browser, "legend-low") == "0 bits")


def test_the_classifiers_probabilities_are_shown(browser: Any) -> None:
    rows = browser.find_elements(By.CSS_SELECTOR, "#class-bars .class")
    assert [row.text.split("\n")[0] for row in rows] == ["<i>bad", "good"]
    shares = [float(meter.get_property("value")) for meter in browser.find_elements(By.TAG_NAME, "meter")]
    assert sum(shares) == pytest.approx(1)
    assert text_of(browser, "class-note") == "by the classifier reviews"


def test_units_are_those_of_the_classifiers_layer(browser: Any, model: ByteModel) -> None:
    assert text_of(browser, "unit-label") == "Unit of layer 1 of 2"
    browser.execute_script(
        "window.asked = []; const send = fetch;"
        "window.fetch = (address, how) => { asked.push(JSON.parse(how.body)); return send(address, how); };"
    )
    type_in(browser, "The night")
    until(browser, lambda: shown(browser) == "\u21b5 The night ")
    browser.find_element(By.ID, "coloured").send_keys(Keys.END)
    value = model.trace("The night", 3, layer=0).values[-1]
    assert text_of(browser, "readout").endswith(f"{'+' if value >= 0 else chr(0x2212)}{abs(value):.3f}")
    browser.find_element(By.ID, "go").click()
    until(browser, lambda: " bytes in " in text_of(browser, "write-status"))
    assert {one["layer"] for one in browser.execute_script("return asked")} == {0}


def test_what_is_too_long_is_said(browser: Any) -> None:
    most = int(browser.execute_script("return fetch('/api/model').then((one) => one.json())")["limits"]["trace_chars"])
    put = "const field = document.getElementById(arguments[0]); field.value = arguments[1];"
    browser.execute_script(put + "field.dispatchEvent(new Event('input'));", "text", "\u00e9" * (most + 500))
    expected = f"Only the first {most:,} of {most + 500:,} characters are read."
    until(browser, lambda: text_of(browser, "text-cut") == expected and len(shown(browser)) == most + 3)
    browser.execute_script(put, "prompt", "a" * 5000)
    browser.find_element(By.ID, "go").click()
    until(browser, lambda: text_of(browser, "prompt-cut").endswith("of 5,000 characters are read."))
    browser.find_element(By.ID, "stop").click()
    type_in(browser, "short")
    until(browser, lambda: shown(browser) == "\u21b5 short ")
    assert text_of(browser, "text-cut") == ""


def test_only_a_busy_server_is_asked_again_and_not_for_ever(browser: Any) -> None:
    refuse = """
      window.asked = 0;
      const [status, code] = arguments, body = JSON.stringify({ error: { code, problem: "No.", remedy: "" } });
      window.fetch = async () => { window.asked += 1; return new Response(body, { status }); };
      const later = window.setTimeout;
      window.setTimeout = (call, wait) => later(call, Math.min(wait, 5));
      document.getElementById("text").dispatchEvent(new Event("input"));
    """
    for status, code, times in ((504, "too_long", 1), (503, "busy", 6)):
        browser.execute_script(refuse, status, code)
        until(browser, lambda times=times: browser.execute_script("return asked") == times)
        time.sleep(0.5)
        assert browser.execute_script("return asked") == times
        assert text_of(browser, "read-problem") == "No."


def test_a_unit_that_moves_little_is_told_apart(browser: Any) -> None:
    moves = {one.get_attribute("data-unit") for one in browser.find_elements(By.CSS_SELECTOR, "#top button")}
    assert len(moves) == 12
    other = next(str(unit) for unit in range(16) if str(unit) not in moves)
    field = browser.find_element(By.ID, "unit")
    field.clear()
    field.send_keys(other, Keys.ENTER)
    until(browser, lambda: text_of(browser, "shown-unit").startswith(f"Shown is unit {other}, "))
    after = {one.get_attribute("data-unit") for one in browser.find_elements(By.CSS_SELECTOR, "#top button")}
    assert after == moves


def test_markup_stays_text(browser: Any) -> None:
    type_in(browser, HOSTILE)
    expected = "\u21b5 " + HOSTILE.replace("&lt;b&gt;", "<b>") + " "
    until(browser, lambda: shown(browser) == expected)
    prompt = browser.find_element(By.ID, "prompt")
    prompt.clear()
    prompt.send_keys(HOSTILE)
    browser.find_element(By.ID, "go").click()
    until(browser, lambda: " bytes in " in text_of(browser, "write-status"))
    assert text_of(browser, "written").startswith(HOSTILE)
    assert text_of(browser, "name") == "<b>run"
    assert browser.title == "<b>run \u00b7 overnight"
    assert browser.find_elements(By.CSS_SELECTOR, "#coloured img, #written img, h1 b, #class-bars i, main script") == []


def test_text_is_streamed_steered_and_stopped(browser: Any) -> None:
    browser.find_element(By.ID, "add-clamp").click()
    browser.find_element(By.ID, "seed").send_keys("5")
    browser.execute_script("document.getElementById('length').value = 2000")
    browser.find_element(By.ID, "go").click()
    until(browser, lambda: 0 < len(text_of(browser, "written")) < 1500)
    browser.find_element(By.ID, "stop").click()
    until(browser, lambda: text_of(browser, "write-status") == "Stopped.")
    assert len(text_of(browser, "written")) < 2000
    browser.execute_script("document.getElementById('length').value = 50")
    browser.find_element(By.ID, "go").click()
    until(browser, lambda: " bytes in " in text_of(browser, "write-status"))
    assert "seed 5, temperature 0.8, unit 3 held at +1.0." in text_of(browser, "write-status")


def test_everything_is_reached_by_keyboard(browser: Any) -> None:
    browser.find_element(By.ID, "name").click()
    reached, names = set(), {"text", "by-unit", "unit", "coloured", "prompt", "temperature", "length", "seed", "go"}
    for _ in range(60):
        browser.switch_to.active_element.send_keys(Keys.TAB)
        reached.add(browser.switch_to.active_element.get_attribute("id"))
    assert names <= reached
    coloured = browser.find_element(By.ID, "coloured")
    coloured.send_keys(Keys.HOME, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert text_of(browser, "readout").startswith("Byte 2 of ")
    assert "\u201cI\u201d 0x49" in text_of(browser, "readout")
    coloured.send_keys(Keys.END)
    assert "space 0x20" in text_of(browser, "readout")
    browser.find_element(By.ID, "by-unit").send_keys(Keys.ARROW_RIGHT)
    until(browser, lambda: text_of(browser, "legend-low") == "0 bits")
    browser.find_element(By.ID, "seed").send_keys("1", Keys.ENTER)
    until(browser, lambda: " bytes in " in text_of(browser, "write-status"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_needs_no_sideways_scrolling(browser: Any, page: str, scheme: str) -> None:
    open_page(browser, page, 375, scheme)
    type_in(browser, "unbreakable" * 30 + " night")
    until(browser, lambda: shown(browser).endswith("night "))
    browser.find_element(By.ID, "add-clamp").click()
    browser.find_element(By.ID, "go").click()
    until(browser, lambda: " bytes in " in text_of(browser, "write-status"))
    assert browser.execute_script("return [document.documentElement.scrollWidth, innerWidth]") == [375, 375]
    small = "return [...document.querySelectorAll('button, textarea, input[type=number]')]"
    heights = browser.execute_script(small + ".map((one) => one.getBoundingClientRect().height)")
    assert min(heights) >= 32, "large enough for a finger"
    assert contrast(browser, "#written span") >= 4.5
    assert contrast(browser, "#coloured span:not(.frame)") >= 4.5


def contrast(driver: Any, selector: str) -> float:
    """The least contrast of text and its background (WCAG 2.2), drawn on a canvas to get numbers from any notation."""
    script = """
      const canvas = Object.assign(document.createElement("canvas"), { width: 1, height: 1 });
      const context = canvas.getContext("2d", { willReadFrequently: true });
      const card = getComputedStyle(document.getElementById("coloured")).backgroundColor;
      const light = (colour) => {
        for (const one of [card, colour]) { context.fillStyle = one; context.fillRect(0, 0, 1, 1); }
        const part = [...context.getImageData(0, 0, 1, 1).data].slice(0, 3).map((v) => v / 255);
        const [r, g, b] = part.map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
      };
      return Math.min(...[...document.querySelectorAll(arguments[0])].map((one) => {
        const style = getComputedStyle(one);
        const pair = [light(style.color), light(style.backgroundColor)].sort((a, b) => a - b);
        return (pair[1] + 0.05) / (pair[0] + 0.05);
      }));
    """
    return float(driver.execute_script(script, selector))
