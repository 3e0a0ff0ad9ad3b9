"""A headless Chromium that a test steers through a pipe, by the DevTools protocol; needs no package."""

import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


def find_chromium() -> str | None:
    """The path of a Chromium, None if there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """Opens one page and collects what it complains about.

    Args:
        path: of the page.
        profile: an empty folder for the browser's own files.
        scripts: whether the page may run scripts.
    """

    def __init__(self, path: Path, profile: Path, *, scripts: bool = True) -> None:
        chromium = find_chromium()
        assert chromium, "there is no Chromium; see find_chromium"
        theirs, self._to = os.pipe()
        self._from, answers = os.pipe()
        flags = "--headless --no-sandbox --disable-gpu --remote-debugging-pipe --no-first-run --window-size=1280,1600"
        command = f"exec {chromium} {flags} --user-data-dir={profile} about:blank 3<&{theirs} 4>&{answers}"
        self._process = subprocess.Popen(
            ["bash", "-c", command], pass_fds=(theirs, answers), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for end in (theirs, answers):
            os.close(end)
        self._count, self._rest, self._session = 0, b"", ""
        self.events: list[dict[str, Any]] = []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")
        self._call("Emulation.setScriptExecutionDisabled", value=not scripts)
        self._call("Page.navigate", url=path.resolve().as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(self._read())

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression."""
        found = self._call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def hover(self, x: float, y: float) -> None:
        """Move the mouse to a place of the page."""
        self._call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def complaints(self) -> list[dict[str, Any]]:
        """Errors and warnings of the console, and requests to anything but the page."""
        bad = {"Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded", "Network.loadingFailed"}
        asked = [e for e in self.events if e["method"] == "Network.requestWillBeSent"]
        outside = [e for e in asked if not e["params"]["request"]["url"].startswith(("file:", "data:"))]
        return [*outside, *(event for event in self.events if event["method"] in bad)]

    def close(self) -> None:
        """End the browser."""
        self._call("Browser.close", session=False)
        self._process.wait(20)
        for end in (self._to, self._from):
            os.close(end)

    def _call(self, method: str, session: bool = True, **parameters: Any) -> dict[str, Any]:
        self._count += 1
        message: dict[str, Any] = {"id": self._count, "method": method, "params": parameters}
        if self._session and session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._count:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def _read(self, seconds: float = 60) -> dict[str, Any]:
        end = time.monotonic() + seconds
        while b"\0" not in self._rest:
            assert select.select([self._from], [], [], max(0, end - time.monotonic()))[0], "Chromium does not answer"
            part = os.read(self._from, 1 << 20)
            assert part, "Chromium has ended"
            self._rest += part
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message) | ({} if b'"method"' in message else {"method": ""})
