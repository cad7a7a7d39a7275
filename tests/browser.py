"""A page in headless Chromium, asked over its debugging protocol."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import httpx2 as httpx
from patience import wait_for
from websockets.sync.client import ClientConnection, connect

BROWSER = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None)
OPTIONS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0", "--window-size=1280,900")


class Page:
    """One tab; expressions are the page's own JavaScript."""

    def __init__(self, socket: ClientConnection, browser: subprocess.Popen[bytes]) -> None:
        self._socket, self._browser, self._numbers = socket, browser, count(1)

    def go(self, address: str) -> None:
        self._ask("Page.navigate", url=address)

    def value(self, expression: str) -> Any:
        """None also where it raises."""
        return self._ask("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def wait_until(self, expression: str) -> None:
        wait_for(lambda: self.value(expression) is True, self.told, self._browser)

    def wait_for_line(self, text: str) -> None:
        """Until a reader sees it, in a line or cell of its own."""
        self.wait_until(
            f"document.body !== null && document.body.innerText.split(/[\\n\\t]/).includes({json.dumps(text)})"
        )

    def told(self) -> str:
        return str(self.value("document.documentElement.outerHTML"))

    def picture(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self._ask("Page.captureScreenshot")["data"]))

    def _ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while (answer := json.loads(self._socket.recv())).get("id") != number:
            pass  # an event
        assert "error" not in answer, answer
        result: dict[str, Any] = answer["result"]
        return result


@contextmanager
def opened(address: str, folder: Path) -> Iterator[Page]:
    """A browser of its own on a page, gone afterwards; `folder` is its profile's."""
    assert BROWSER is not None
    port = folder / "DevToolsActivePort"
    command = [BROWSER, *OPTIONS, f"--user-data-dir={folder}", address]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as browser:
        try:
            wait_for(lambda: port.is_file() and "\n" in port.read_text(), "the browser tells no port", browser)
            listed = httpx.get(f"http://127.0.0.1:{port.read_text().split()[0]}/json").json()
            (tab,) = [each for each in listed if each["type"] == "page"]
            with connect(tab["webSocketDebuggerUrl"], max_size=None) as socket:
                yield Page(socket, browser)
        finally:
            browser.kill()
