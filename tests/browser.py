"""A headless Chromium driven over a pair of pipes: its DevTools protocol, by the standard library.

Nothing is installed for it: messages are JSON with a zero byte behind, file descriptor 3 takes
them and 4 gives answers and events (`--remote-debugging-pipe`).
"""

import base64
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
    *("--remote-debugging-pipe", "--no-first-run", "--disable-background-networking"),
    "--hide-scrollbars",
)
_WAIT = 20.0  # seconds for one answer


def find() -> str:
    """The program; skips the test where there is none."""
    for name in NAMES:
        path = shutil.which(name)
        if path:
            return path
    pytest.skip(f"no browser: none of {', '.join(NAMES)} is installed")


class Browser:
    """One page of a headless Chromium, and what it said and fetched."""

    def __init__(self, profile: Path) -> None:
        to_read, self._write = os.pipe()
        self._read, to_write = os.pipe()
        # Bash: a plain sh may take file descriptors of one digit only.
        ends = f'exec "$0" "$@" 3<&{to_read} 4>&{to_write}'
        self._process = subprocess.Popen(
            ["bash", "-c", ends, find(), *OPTIONS, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(to_read, to_write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_read)
        os.close(to_write)
        self._number, self._rest, self._session = 0, b"", ""
        self.events: list[dict[str, Any]] = []
        targets = self.call("Target.getTargets")["targetInfos"]
        target = next(t["targetId"] for t in targets if t["type"] == "page")
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The answer to one command; events on the way are kept, dialogs are accepted."""
        number = self._send(method, parameters)
        while True:
            answer = self._message()
            if answer.get("id") == number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            self.events.append(answer)
            if answer.get("method") == "Page.javascriptDialogOpening":
                self._send("Page.handleJavaScriptDialog", {"accept": True})

    def _send(self, method: str, parameters: dict[str, Any]) -> int:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        return self._number

    def _message(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._read], [], [], _WAIT)
            assert ready, f"the browser has said nothing for {_WAIT:.0f} seconds"
            part = os.read(self._read, 1 << 16)
            assert part, f"the browser has ended: {self._process.poll()}"
            self._rest += part
        text, self._rest = self._rest.split(b"\0", 1)
        return json.loads(text)

    def open(self, url: str, width: int = 1200, height: int = 900) -> None:
        """Load a page and wait for its last resource."""
        self.resize(width, height)
        self.call("Page.navigate", url=url)
        self.wait_for("document.readyState === 'complete' && location.href !== 'about:blank'")
        self.call("Page.bringToFront")  # a page without focus can't write to the clipboard

    def resize(self, width: int, height: int) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **metrics)

    def prefer(self, scheme: str) -> None:
        """The system's colours: "light" or "dark"."""
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.call("Emulation.setEmulatedMedia", features=[feature])

    def value(self, expression: str) -> Any:
        """Of JavaScript, a promise awaited."""
        options = {"returnByValue": True, "awaitPromise": True, "userGesture": True}
        answer = self.call("Runtime.evaluate", expression=expression, **options)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_for(self, expression: str) -> None:
        end = time.monotonic() + _WAIT
        while not self.value(expression):
            assert time.monotonic() < end, f"not within {_WAIT:.0f} seconds: {expression}"
            time.sleep(0.02)

    def click(self, element: str) -> None:
        """With the mouse, in the middle of an element given by JavaScript; scrolls to it first."""
        box = f"""(() => {{
            const element = {element};
            element.scrollIntoView({{block: "center", behavior: "instant"}});
            const box = element.getBoundingClientRect();
            return [box.x + box.width / 2, box.y + box.height / 2];
        }})()"""
        x, y = self.value(box)
        for kind in ("mousePressed", "mouseReleased"):
            parameters = {"type": kind, "x": x, "y": y, "button": "left", "clickCount": 1}
            self.call("Input.dispatchMouseEvent", **parameters)

    def press(self, key: str, ctrl: bool = False) -> None:
        """A key by its name, e.g. ArrowLeft, or a letter or digit by itself."""
        named = {"Escape": 27, "Tab": 9, "Enter": 13, "ArrowLeft": 37, "ArrowRight": 39}
        written = {"Enter": "\r"}.get(key, "" if key in named or ctrl else key)
        for kind in ("keyDown", "keyUp"):
            code = named[key] if key in named else ord(key.upper())
            text = {"text": written} if written and kind == "keyDown" else {}
            parameters = {"type": kind, "key": key, "windowsVirtualKeyCode": code} | text
            parameters |= {"modifiers": 2} if ctrl else {}
            self.call("Input.dispatchKeyEvent", **parameters)

    def screenshot(self, path: Path, whole: bool = False) -> None:
        """PNG of what is in view, or of the whole page."""
        options = {"captureBeyondViewport": True} if whole else {}
        if whole:
            size = self.call("Page.getLayoutMetrics")["cssContentSize"]
            options["clip"] = size | {"scale": 1}
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", **options)["data"]))

    def requests(self) -> list[str]:
        """Addresses of all that was fetched, the page's own among them."""
        sent = [e for e in self.events if e.get("method") == "Network.requestWillBeSent"]
        return [event["params"]["request"]["url"] for event in sent]

    def complaints(self) -> list[str]:
        """Errors and warnings of the console, and exceptions nobody caught."""
        keys = {
            "Runtime.exceptionThrown": "exceptionDetails",
            "Runtime.consoleAPICalled": "args",
            "Log.entryAdded": "entry",
        }
        found = []
        for event in self.events:
            said = event.get("params", {})
            level = said.get("type") or said.get("entry", {}).get("level")
            if event.get("method") in keys and level in (None, "error", "warning"):
                found.append(json.dumps(said[keys[event["method"]]]))
        return found

    def close(self) -> None:
        self.events.clear()
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._read)
        os.close(self._write)
