"""The demo's page, in a real browser."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(180),
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium; set CHROMIUM to its path"),
]


@pytest.fixture
def browser() -> Iterator[Browser]:
    """A headless Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Chromium's own sandbox does not work for root, nor in most containers.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def open_page(browser: Browser, address: str, name: str, faults: list[str]) -> Page:
    """Open the chat as one more person, in a browser profile of their own."""
    page = browser.new_context(viewport={"width": 1280, "height": 800}).new_page()
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda said: faults.append(said.text) if said.type == "error" else None)
    page.goto(address)
    page.wait_for_selector(".pill.on")
    page.fill("#name", name)
    return page


def reach_another_server(page: Page, than: Page) -> None:
    """Connect anew until the other server process answers; the kernel decides which does."""
    for _ in range(100):
        if page.inner_text("#state") != than.inner_text("#state"):
            return
        page.reload()
        page.wait_for_selector(".pill.on")
    pytest.fail("every connection reached the same server process")


def say(page: Page, text: str) -> None:
    page.fill("#text", text)
    page.press("#text", "Enter")


def fill_the_picture(ada: Page, grace: Page) -> None:
    """Go on for as long as the chart shows, so that the documentation has something to look at."""
    for person, text in (
        (grace, "Another one since. Each time the old login is gone, sessions and all."),
        (ada, "And we are on two different servers?"),
        (grace, "Yes, mine is the other one. PostgreSQL carries the messages."),
    ):
        ada.wait_for_timeout(22_000)
        say(person, text)
    ada.wait_for_timeout(12_000)


def test_two_people_talk_while_the_login_changes(
    browser: Browser, serve_demo: Callable[..., Any], tmp_path: Path
) -> None:
    """What one says the other reads once, on another server, and the page shows the new login."""
    faults: list[str] = []
    wanted = os.environ.get("DEMO_SCREENSHOT")
    with serve_demo("--rotate-every", "14" if wanted else "5") as (_, address):
        ada = open_page(browser, address, "Ada", faults)
        grace = open_page(browser, address, "Grace", faults)
        reach_another_server(grace, than=ada)
        grace.fill("#name", "Grace")
        say(ada, "Morning! Did the database password change again?")
        grace.wait_for_selector("text=Did the database password change again?")
        say(grace, "It does so every few seconds.")
        ada.wait_for_selector("text=It does so every few seconds.")
        first = ada.inner_text("#user")
        assert first.startswith("v-")

        ada.wait_for_function(
            "user => document.getElementById('user').innerText !== user", arg=first
        )
        ada.wait_for_selector(".turn")
        say(ada, "See the dashed line? The login moved while we were talking.")
        grace.wait_for_selector("text=See the dashed line?")
        say(grace, "And nothing got lost. Look at the counter on the right.")
        ada.wait_for_selector("text=And nothing got lost.")

        for page in (ada, grace):
            page.wait_for_function("Number(document.getElementById('rotations').innerText) >= 1")
            page.wait_for_function("parseInt(document.getElementById('received').innerText) > 8")
            page.wait_for_function("document.querySelectorAll('.line').length >= 4")
            assert page.locator(".line").count() == 4
            assert page.inner_text("#lost") == "0"
        if wanted:
            fill_the_picture(ada, grace)
        picture = Path(wanted) if wanted else tmp_path / "demo.png"
        ada.screenshot(path=picture)
        assert picture.stat().st_size > 10_000
    assert faults == []


@pytest.mark.long
def test_rooms_are_apart_and_remember(browser: Browser, serve_demo: Callable[..., Any]) -> None:
    """Who comes later reads what was said in the room, and nothing of another room."""
    faults: list[str] = []
    with serve_demo("--adapter", "files", "--rotate-every", "5") as (_, address):
        ada = open_page(browser, address, "Ada", faults)
        say(ada, "Only in the <b>lobby</b>")
        ada.wait_for_selector(".line.mine")
        ada.click("text=Garden")
        ada.wait_for_selector(".empty")
        grace = open_page(browser, address, "Grace", faults)
        grace.wait_for_selector("text=Only in the <b>lobby</b>")
        say(grace, "Grace in the lobby")
        grace.wait_for_selector(".line.mine")
        assert ada.locator(".line").count() == 0
        assert re.fullmatch(r"chat", ada.inner_text("#user"))

        # Fits a telephone, in both colour schemes.
        for scheme in ("light", "dark"):
            ada.emulate_media(color_scheme=scheme)
            ada.set_viewport_size({"width": 360, "height": 740})
            wide = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
            assert not ada.evaluate(wide)
    assert faults == []
