"""A real headless Chromium, driven over its DevTools protocol."""

import base64
import itertools
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"),
    *("--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
    "--autoplay-policy=no-user-gesture-required",
    "--remote-debugging-port=0",
)


# Number and text of a key.
KEYS = {"Tab": (9, ""), "Enter": (13, "\r")}


class Navigated(Exception):
    """The page that was asked is gone: another one is being loaded."""


@dataclass
class Page:
    """The browser's one page."""

    connection: ClientConnection
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def command(self, method: str, **parameters: Any) -> Any:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        self.connection.send(json.dumps(message))
        while True:
            answer = json.loads(self.connection.recv(timeout=30))
            if answer.get("id") == number:
                if "navigated" in str(answer.get("error")):
                    raise Navigated(answer)
                assert "error" not in answer, answer
                return answer["result"]

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression; a promise is waited for."""
        result = self.command(
            "Runtime.evaluate",
            expression=script,
            awaitPromise=True,
            returnByValue=True,
            userGesture=True,
        )
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def _holds(self, condition: str) -> bool:
        try:
            return bool(self.run(condition))
        except Navigated:  # the next page is on its way
            return False

    def wait_until(self, condition: str, within_sec: float = 30) -> None:
        deadline = time.monotonic() + within_sec
        while not self._holds(condition):
            assert time.monotonic() < deadline, (
                f"not within {within_sec} s: {condition}"
            )
            time.sleep(0.05)

    def open(self, address: str) -> None:
        self.command("Page.navigate", url=address)
        self.wait_until("document.readyState === 'complete'")

    def picture(self) -> bytes:
        """What is seen now, as a PNG."""
        answer = self.command("Page.captureScreenshot", format="png")
        return base64.b64decode(answer["data"])

    def press(self, key: str) -> None:
        """A key of `KEYS`, as a user presses it."""
        code, text = KEYS[key]
        named = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self.command("Input.dispatchKeyEvent", type="keyDown", text=text, **named)
        self.command("Input.dispatchKeyEvent", type="keyUp", **named)

    def set_offline(self, offline: bool) -> None:
        self.command(
            "Network.emulateNetworkConditions",
            offline=offline,
            latency=0,
            downloadThroughput=-1,
            uploadThroughput=-1,
        )


@contextmanager
def chromium(profile: Path) -> Iterator[Page]:
    """A browser with an empty profile; fails with one line where there is none."""
    program = shutil.which("chromium")
    assert program, (
        "no chromium: `make chromium` installs it (apt-get install chromium)"
    )
    process = subprocess.Popen(
        [program, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        # A busy machine answers late: it is not gone.
        with connect(
            _address_of_page(profile), max_size=None, ping_interval=None
        ) as connection:
            page = Page(connection)
            page.command("Page.enable")
            page.command("Network.enable")
            yield page
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def _address_of_page(profile: Path) -> str:
    from urllib.request import urlopen

    port_file = profile / "DevToolsActivePort"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if port_file.exists() and (text := port_file.read_text().split()):
            with urlopen(f"http://127.0.0.1:{text[0]}/json/list", timeout=10) as answer:
                pages = [p for p in json.load(answer) if p["type"] == "page"]
            if pages:
                return str(pages[0]["webSocketDebuggerUrl"])
        time.sleep(0.05)
    raise AssertionError("chromium opened no page within 60 s")
