"""The page, driven in a real Chromium: what a person sees, on a screen and on a phone, and with a keyboard alone."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ..bad_inputs import encoded, photo
from ..browser import SIZES, chromium, violations
from ..service import Service, service

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]

WAIT_MS = 120_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def here(browser: Any) -> Iterator[Service]:  # after the browser: without one there is nothing to serve
    with service() as one:
        yield one


@pytest.fixture
def shots(tmp_path: Path) -> Path:
    """Where screenshots go: RADET_SHOTS, for whoever wants to look at them."""
    folder = Path(os.environ.get("RADET_SHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(params=sorted(SIZES))
def page(browser: Any, here: Service, request: pytest.FixtureRequest) -> Iterator[Any]:
    """The page at one size; a request to another host, a script error or a breach of the policy fails the test."""
    width, height = SIZES[request.param]
    context = browser.new_context(viewport={"width": width, "height": height})
    opened = context.new_page()
    wrong: list[str] = []
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on("console", lambda line: wrong.append(line.text) if "Content Security Policy" in line.text else None)
    opened.on("request", lambda asked: wrong.append(asked.url) if _outside(asked.url, here.url) else None)
    opened.set_default_timeout(WAIT_MS)
    opened.goto(here.url)
    opened.size = request.param
    yield opened
    context.close()
    assert not wrong


def _outside(url: str, here: str) -> bool:
    return not url.startswith((f"{here}/", "data:", "blob:"))


@pytest.fixture(scope="module")
def two(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A photograph and a generated picture as delivered; where the folder is not there, a photograph twice."""
    folder = Path(__file__).parents[3] / "shared" / "data" / "originals"
    if folder.is_dir():
        suffixes = {".jpg", ".jpeg", ".png", ".webp"}
        found = {
            kind: sorted(path for path in (folder / kind).rglob("*") if path.suffix.lower() in suffixes)
            for kind in ("bsds500", "dalle3_gyum")
        }
        if all(found.values()):
            return [found["bsds500"][0], found["dalle3_gyum"][0]]
    made = tmp_path_factory.mktemp("two")
    for name in ("photograph.jpg", "another.jpg"):
        (made / name).write_bytes(encoded(photo(), "JPEG"))
    return [made / "photograph.jpg", made / "another.jpg"]


def finished(page: Any, count: int) -> Any:
    """The cards, the newest lot first, once none of them is being worked on."""
    cards = page.locator("article.card")
    playwright.expect(cards).to_have_count(count, timeout=WAIT_MS)
    playwright.expect(page.locator("article.card:is([data-state=waiting], [data-state=busy])")).to_have_count(
        0, timeout=WAIT_MS
    )
    return cards


def overlapping(page: Any) -> list[str]:
    """Texts of the page that lie over one another or stick out of it."""
    found: list[str] = page.evaluate(
        """() => {
          const wrong = [];
          if (document.documentElement.scrollWidth > window.innerWidth) wrong.push("the page scrolls sideways");
          const seen = [...document.querySelectorAll("h1,h2,h3,p,li,dt,dd,label,summary,.band-words span")]
            .filter((one) => one.checkVisibility() && !one.closest(".out-of-sight"))
            .filter((one) => !one.querySelector("label,p,li"));
          const boxes = seen.map((one) => [one, one.getBoundingClientRect()])
            .filter(([, box]) => box.width && box.height);
          for (const [i, [a, x]] of boxes.entries()) {
            if (x.left < -1 || x.right > window.innerWidth + 1) wrong.push(`sticks out: ${a.textContent.trim()}`);
            for (const [b, y] of boxes.slice(i + 1)) {
              if (a.contains(b) || b.contains(a)) continue;
              const over = Math.min(x.right, y.right) - Math.max(x.left, y.left) > 2
                && Math.min(x.bottom, y.bottom) - Math.max(x.top, y.top) > 2;
              if (over) wrong.push(`${a.textContent.trim()} | ${b.textContent.trim()}`);
            }
          }
          return wrong;
        }"""
    )
    return found


def test_pictures_get_verdicts_heat_maps_and_reasons(page: Any, two: list[Path], shots: Path) -> None:
    playwright.expect(page.locator("#model")).to_contain_text("radet-lite")
    page.set_input_files("#files", [str(path) for path in two])
    cards = finished(page, 2)
    playwright.expect(page.locator("#progress")).to_have_text(re.compile(r"2 of 2 pictures looked at: \d"))
    for index, path in enumerate(two):
        card = cards.nth(index)
        playwright.expect(card.locator(".name")).to_have_text(path.name)
        assert card.get_attribute("data-state") in {"real", "uncertain", "generated"}
        playwright.expect(card.locator(".verdict")).to_have_text(
            {"real": "Looks real", "uncertain": "Uncertain", "generated": "Looks generated"}[
                str(card.get_attribute("data-state"))
            ]
        )
        playwright.expect(card.locator(".summary")).to_contain_text("Probability of generation 0.")
        share = re.search(r"larger than that of (.*%) of real", card.locator(".sentences").inner_text())
        assert share is not None
        playwright.expect(card.locator(".drift")).to_contain_text(f"Of the reference pictures {share[1]} drift less")
        playwright.expect(card.locator(".branches dt")).to_have_count(4)
        assert card.locator(".sentences li").count() >= 4
        assert "proof" in card.locator(".sentences").inner_text()
        assert not re.search(r"[-−]0\.00", card.locator(".words").inner_text())
        for picture in ("crop", "heat"):
            assert card.locator(f".{picture}").evaluate("one => one.complete && one.naturalWidth") == 448
        box, needle = card.locator(".band").bounding_box(), card.locator(".needle").bounding_box()
        assert box["x"] - 5 <= needle["x"] <= box["x"] + box["width"]
    assert not overlapping(page)
    assert not violations(page)
    page.screenshot(path=shots / f"{page.size}-verdicts.png", full_page=True)


def test_what_a_file_says_of_itself_is_shown_as_its_word_alone(page: Any, tmp_path: Path) -> None:
    claim = b'<x DigitalSourceType="http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"/>'
    for name, options in (("says.jpg", {"xmp": claim}), ("silent.jpg", {})):
        (tmp_path / name).write_bytes(encoded(photo(), "JPEG", **options))
    page.set_input_files("#files", [str(tmp_path / "says.jpg"), str(tmp_path / "silent.jpg")])
    says, silent = finished(page, 2).all()
    assert "Says of itselftrainedAlgorithmicMedia (not verified" in says.locator(".facts-list").text_content()
    assert "Says of itself" not in silent.locator(".facts-list").text_content()


def test_degraded_copies_say_whether_the_verdict_holds(page: Any, two: list[Path], shots: Path) -> None:
    page.set_input_files("#files", str(two[1]))
    card = finished(page, 1).first
    page.route("**/v1/score?*", lambda route: route.fulfill(status=400, body="{}"), times=1)
    card.locator(".degrade").click()
    playwright.expect(card.locator(".held")).to_contain_text("answered 400")
    playwright.expect(card).to_be_focused()
    card.locator(".degrade").click()
    playwright.expect(card.locator(".held")).to_contain_text("The verdict", timeout=WAIT_MS)
    words = card.locator(".copies dt").all_inner_texts()
    assert sorted(words) == [
        "JPEG of quality 50",
        "blurred by 1 px",
        "noise of 3 levels",
        "scaled to 75 %",
        "scaled to 80 %, then JPEG of quality 60",
    ]
    verdicts = [told.split(", ")[1] for told in card.locator(".copies dd").all_inner_texts()]
    others = [
        word for word, verdict in zip(words, verdicts, strict=True) if verdict != card.get_attribute("data-state")
    ]
    said = f"does not hold for a copy that is: {'; '.join(others)}." if others else "stays the same."
    assert max(told.bounding_box()["height"] for told in card.locator(".copies dd").all()) < 60, (
        "not letter below letter"
    )
    assert card.locator(".held").inner_text() == f"The verdict {said}"
    assert not overlapping(page)
    assert not violations(page)
    page.screenshot(path=shots / f"{page.size}-copies.png", full_page=True)


def test_the_slider_fades_the_heat_map_by_keyboard(page: Any, two: list[Path]) -> None:
    page.set_input_files("#files", str(two[0]))
    card = finished(page, 1).first
    heat = card.locator(".heat")
    card.locator(".heat-range").focus()
    page.keyboard.press("Home")
    assert heat.evaluate("one => getComputedStyle(one).opacity") == "0"
    page.keyboard.press("End")
    assert heat.evaluate("one => getComputedStyle(one).opacity") == "1"
    assert card.locator(".heat-range").get_attribute("aria-valuetext") == "100 % heat map"


def test_a_file_that_is_no_picture_is_told_in_words(page: Any, tmp_path: Path, two: list[Path], shots: Path) -> None:
    (tmp_path / "page.jpg").write_bytes(b"<!DOCTYPE html><html></html>")
    (tmp_path / "cut.jpg").write_bytes(encoded(photo(), "JPEG")[:3000])
    page.set_input_files("#files", [str(tmp_path / "page.jpg"), str(tmp_path / "cut.jpg"), str(two[0])])
    cards = finished(page, 3)
    for index, code in ((0, "not_an_image"), (1, "truncated")):
        card = cards.nth(index)
        assert card.get_attribute("data-state") == "error"
        playwright.expect(card.locator(".verdict")).to_have_text("No score")
        playwright.expect(card.locator(".summary")).to_contain_text(f"({code})")
        playwright.expect(card.locator(".again")).to_be_hidden()  # it is as broken the next time
        playwright.expect(card.locator(".found")).to_be_hidden()
    assert cards.nth(2).get_attribute("data-state") != "error"
    playwright.expect(page.locator("#progress")).to_contain_text("2 without a score.")
    playwright.expect(page.locator("#all-again")).to_be_hidden()
    assert not overlapping(page)
    assert not violations(page)
    page.screenshot(path=shots / f"{page.size}-errors.png", full_page=True)


def test_a_picture_can_be_dropped_and_pasted(page: Any) -> None:
    data = list(encoded(photo(), "JPEG"))
    for kind in ("drop", "paste"):
        page.evaluate(
            """([kind, data]) => {
              const moved = new DataTransfer();
              moved.items.add(new File([new Uint8Array(data)], `${kind}.jpg`, {type: "image/jpeg"}));
              const event = kind === "drop"
                ? new DragEvent("drop", {dataTransfer: moved, bubbles: true, cancelable: true})
                : new ClipboardEvent("paste", {clipboardData: moved, bubbles: true, cancelable: true});
              document.dispatchEvent(event);
            }""",
            [kind, data],
        )
    cards = finished(page, 2)
    assert [cards.nth(index).locator(".name").inner_text() for index in (0, 1)] == ["paste.jpg", "drop.jpg"]


def test_what_is_dropped_and_is_no_file_is_told_so(page: Any) -> None:
    drop = """(kind) => {
      const moved = new DataTransfer();
      if (kind === "link") moved.setData("text/uri-list", "https://example.org/a.jpg");
      else moved.items.add(new File([new Uint8Array([1])], "a.jpg", {type: "image/jpeg"}));
      document.dispatchEvent(new DragEvent("drop", {dataTransfer: moved, bubbles: true, cancelable: true}));
    }"""
    page.evaluate(drop, "link")
    playwright.expect(page.locator("#refusal")).to_contain_text("no file")
    playwright.expect(page.locator("article.card")).to_have_count(0)
    assert not overlapping(page)
    assert not violations(page)
    page.evaluate(drop, "file")
    playwright.expect(page.locator("#refusal")).to_be_empty()


def test_a_key_that_cannot_be_sent_is_not_a_service_that_cannot_be_reached(page: Any, two: list[Path]) -> None:
    page.click("#key-box summary")
    page.fill("#key", "let\u200bme-in")
    page.locator("#key").blur()
    playwright.expect(page.locator("#model")).to_contain_text("copy it again")
    page.set_input_files("#files", str(two[0]))
    card = finished(page, 1).first
    playwright.expect(card.locator(".summary")).to_contain_text("copy it again")
    page.fill("#key", "")
    page.locator("#key").blur()
    playwright.expect(page.locator("#model")).to_contain_text("radet-lite")
    card.locator(".again").click()
    playwright.expect(card.locator(".found")).to_be_visible(timeout=WAIT_MS)


def test_no_service_and_no_file_are_told_apart(page: Any, tmp_path: Path) -> None:
    file = tmp_path / "a.jpg"
    file.write_bytes(encoded(photo(), "JPEG"))
    page.context.set_offline(True)
    page.set_input_files("#files", str(file))
    card = finished(page, 1).first
    playwright.expect(card.locator(".summary")).to_contain_text("cannot be reached")
    page.context.set_offline(False)
    file.unlink()
    card.locator(".again").focus()
    page.keyboard.press("Enter")
    playwright.expect(card.locator(".summary")).to_contain_text("cannot be read")
    playwright.expect(card).to_be_focused()  # the button went while it worked: the keyboard stays where it was


def test_a_service_that_comes_back_is_asked_again(page: Any, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(encoded(photo(), "JPEG"))
    page.route("**/v1/model", lambda route: route.abort())
    page.reload()
    playwright.expect(page.locator("#model")).to_contain_text("cannot be reached")
    page.unroute("**/v1/model")
    page.context.set_offline(True)
    page.set_input_files("#files", str(tmp_path / "a.jpg"))
    card = page.locator("article.card")
    playwright.expect(card.locator(".summary")).to_contain_text("Asking again")
    page.context.set_offline(False)
    assert finished(page, 1).first.get_attribute("data-state") != "error"
    playwright.expect(page.locator("#model")).to_contain_text("radet-lite")


def test_a_proxy_whose_service_is_gone_is_asked_again(page: Any, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(encoded(photo(), "JPEG"))
    page.route("**/v1/explain?*", lambda route: route.fulfill(status=404, body="Path not found"), times=1)
    page.set_input_files("#files", str(tmp_path / "a.jpg"))
    playwright.expect(page.locator("article.card .summary")).to_contain_text("starts again")
    assert finished(page, 1).first.get_attribute("data-state") != "error"


def test_all_that_failed_can_be_tried_again_at_once(page: Any, tmp_path: Path, shots: Path) -> None:
    files = [tmp_path / f"{number}.jpg" for number in range(3)]
    for file in files:
        file.write_bytes(encoded(photo(), "JPEG"))
    page.route("**/v1/explain?*", lambda route: route.fulfill(status=401, json={}), times=2)
    page.set_input_files("#files", [str(file) for file in files])
    cards = finished(page, 3)
    playwright.expect(page.locator("#progress")).to_contain_text("2 without a score")
    page.screenshot(path=shots / f"{page.size}-all-again.png", full_page=True)
    page.locator("#all-again").focus()
    page.keyboard.press("Enter")
    playwright.expect(cards.first).to_be_focused()  # the button went: the keyboard goes to the first that is looked at
    finished(page, 3)
    playwright.expect(page.locator("#progress")).to_have_text("3 of 3 pictures looked at: 3 uncertain.")
    playwright.expect(page.locator("#all-again")).to_be_hidden()


def test_the_keyboard_alone_reaches_everything(page: Any) -> None:
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "files"
    outline = page.locator("#drop").evaluate("one => getComputedStyle(one).outlineStyle")
    assert outline == "solid"
    # A click is what opens the chooser; the dialogue itself is the browser's.
    page.evaluate(
        """() => document.getElementById("files").addEventListener("click", event => {
            event.preventDefault(); window.opened = true;
        })"""
    )
    page.keyboard.press("Enter")
    page.wait_for_function("window.opened", timeout=10_000)


def test_where_keys_are_wanted_the_page_asks_for_one(
    browser: Any, two: list[Path], monkeypatch: pytest.MonkeyPatch, shots: Path
) -> None:
    import hashlib

    monkeypatch.setenv("RADET_API_KEYS", f"page:{hashlib.sha256(b'let-me-in').hexdigest()}")
    with service() as closed:
        opened = browser.new_page(viewport={"width": 390, "height": 844})
        opened.goto(closed.url)
        playwright.expect(opened.locator("#model")).to_contain_text("API key")
        opened.set_input_files("#files", [str(path) for path in two])
        cards = finished(opened, 2)
        for card in cards.all():
            playwright.expect(card.locator(".summary")).to_contain_text("(unauthorized)")
        opened.screenshot(path=shots / "phone-key.png", full_page=True)
        opened.fill("#key", "let-me-in")
        opened.locator("#key").blur()
        playwright.expect(opened.locator("#model")).to_contain_text("radet-lite")
        cards.first.locator(".again").click()
        playwright.expect(cards.first.locator(".found")).to_be_visible(timeout=WAIT_MS)
        opened.close()


def test_the_documentation_opens_without_another_host(browser: Any, here: Service, shots: Path) -> None:
    opened = browser.new_page(viewport={"width": 1280, "height": 900})
    outside: list[str] = []
    opened.on("request", lambda asked: outside.append(asked.url) if _outside(asked.url, here.url) else None)
    opened.goto(f"{here.url}/docs")
    playwright.expect(opened.locator(".opblock")).to_have_count(7, timeout=WAIT_MS)
    opened.screenshot(path=shots / "screen-docs.png")
    opened.close()
    assert not outside
