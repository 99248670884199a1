"""Headless Chromium, spoken to in its DevTools protocol over a pair of pipes: no driver, no port."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
DEADLINE = 30.0  # seconds for one answer; a cold start on a busy machine takes several


def find_browser() -> str | None:
    """The first installed program of the family."""
    return next((path for name in PROGRAMS if (path := shutil.which(name))), None)


@dataclass
class Observed:
    """What a page did while it was loaded."""

    messages: list[str] = field(default_factory=list)  # errors and warnings on the console, uncaught exceptions
    requests: list[str] = field(default_factory=list)  # every address but data: that was asked for


class Browser:
    """One browser with one tab.  Use it as a context manager."""

    def __init__(self, program: str, profile: Path):
        commands_out, self._commands = _pipe()
        self._answers, answers_in = _pipe()
        # The browser reads commands on descriptor 3 and answers on 4; sandboxing itself needs a user that is not root.
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
                     "--no-first-run", "--disable-background-networking", f"--user-data-dir={profile}",
                     "--remote-debugging-pipe", "about:blank"]
        self._process = subprocess.Popen(
            ["bash", "-c", f'exec "$0" "$@" 3<&{commands_out} 4>&{answers_in}', program, *arguments],
            pass_fds=(commands_out, answers_in), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL)
        os.close(commands_out)
        os.close(answers_in)
        self._buffer = b""
        self._events: list[dict] = []
        self._next_id = 0
        self._session = ""

    def __enter__(self) -> Browser:
        try:
            target = self._call("Target.createTarget", url="about:blank")["targetId"]
            self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            for domain in ("Page", "Runtime", "Log", "Network"):
                self._call(f"{domain}.enable")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._commands)
        os.close(self._answers)

    def show_as(self, medium: str) -> None:
        """Lays pages out for "screen" or "print" from now on."""
        self._call("Emulation.setEmulatedMedia", media=medium)

    def open(self, page: Path, width: int, height: int = 900) -> Observed:
        """Loads a file in a window of `width` CSS pixels and tells what it did on the way."""
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self._events.clear()
        self._call("Page.navigate", url=page.resolve().as_uri())
        self._wait_for("Page.loadEventFired")
        self.evaluate("document.fonts.ready.then(() => true)")  # and with it what was still to be reported
        return _observed(self._events)

    def evaluate(self, expression: str) -> object:
        """The value of a JavaScript expression, awaited where it is a promise."""
        answer = self._call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def screenshot(self) -> bytes:
        """The whole page, also what lies below the window, as PNG."""
        return base64.b64decode(self._call("Page.captureScreenshot", format="png", captureBeyondViewport=True)["data"])

    def printed(self) -> bytes:
        """The page as PDF."""
        return base64.b64decode(self._call("Page.printToPDF", preferCSSPageSize=True)["data"])

    def _call(self, method: str, **parameters: object) -> dict:
        self._next_id += 1
        message = {"id": self._next_id, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._commands, data):]
        while (answer := self._read()).get("id") != self._next_id:
            self._events.append(answer)
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def _wait_for(self, event: str) -> None:
        while not any(message.get("method") == event for message in self._events):
            self._events.append(self._read())

    def _read(self) -> dict:
        """The next message; the protocol ends each with a zero byte."""
        deadline = time.monotonic() + DEADLINE
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._answers], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"the browser did not answer within {DEADLINE:.0f} s"
            received = os.read(self._answers, 1 << 20)
            assert received, "the browser ended"
            self._buffer += received
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)


def _pipe() -> tuple[int, int]:
    """Reading and writing end, above the descriptors that the browser's command line redirects."""
    ends = os.pipe()
    high = tuple(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends)
    for end in ends:
        os.close(end)
    return high[0], high[1]


def _observed(events: list[dict]) -> Observed:
    observed = Observed()
    for event in events:
        method, details = event.get("method"), event.get("params", {})
        if method == "Runtime.consoleAPICalled" and details["type"] in ("error", "warning", "assert"):
            observed.messages.append(" ".join(str(part.get("value", part)) for part in details["args"]))
        elif method == "Runtime.exceptionThrown":
            observed.messages.append(str(details["exceptionDetails"]))
        elif method == "Log.entryAdded" and details["entry"]["level"] in ("error", "warning"):
            observed.messages.append(details["entry"]["text"])
        elif method == "Network.requestWillBeSent" and not details["request"]["url"].startswith("data:"):
            observed.requests.append(details["request"]["url"])
    return observed
