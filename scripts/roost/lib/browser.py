"""A headless chromium, driven over its debugging pipe (Chrome DevTools Protocol); standard library
only. Used by the tests that look at pages.

    with Browser() as browser:
        page = browser.open("http://127.0.0.1:7401/")
        page.wait("document.readyState === 'complete'")
        page.evaluate("document.title")
"""

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)


def find():
    """The browser's path, or None."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One process of a browser with a profile of its own."""

    def __init__(self):
        self.profile = tempfile.TemporaryDirectory(prefix="roost-browser-", ignore_cleanup_errors=True)
        # The browser reads commands from descriptor 3 and writes answers to 4.
        command_read, self.commands = os.pipe()
        self.answers, answer_write = os.pipe()

        def place():
            # Above 4 first, so that placing one does not close the other.
            read, write = os.dup(command_read), os.dup(answer_write)
            high = [os.dup2(fd, 100 + i, inheritable=True) for i, fd in enumerate((read, write))]
            os.dup2(high[0], 3, inheritable=True)
            os.dup2(high[1], 4, inheritable=True)

        self.process = subprocess.Popen(
            [find(), *FLAGS, f"--user-data-dir={self.profile.name}", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            close_fds=False,
            preexec_fn=place,
        )
        os.close(command_read)
        os.close(answer_write)
        self.buffer = b""
        self.number = 0
        self.events = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            self.call("Browser.close", within_s=10)
        except (OSError, TimeoutError):
            pass
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self.commands)
        os.close(self.answers)
        self.profile.cleanup()

    def call(self, method, session=None, within_s=60, **params):
        """Sends a command and returns its result; events that come meanwhile are kept."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if session:
            message["sessionId"] = session
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        until = time.monotonic() + within_s
        while True:
            answer = self.receive(until, method)
            if answer.get("id") != self.number:
                self.events.append(answer)
            elif "error" in answer:
                raise RuntimeError(f"{method}: {answer['error']}")
            else:
                return answer["result"]

    def receive(self, until, what):
        while b"\0" not in self.buffer:
            if not select.select([self.answers], [], [], max(0, until - time.monotonic()))[0]:
                raise TimeoutError(f"the browser does not answer {what}")
            read = os.read(self.answers, 1 << 20)
            if not read:
                raise OSError("the browser has ended")
            self.buffer += read
        message, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(message)

    def open(self, url, width=1200, height=1300, mobile=False):
        """A page in a tab of its own."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session)
        for domain in ("Page", "Runtime", "Network", "Log"):
            page.call(f"{domain}.enable")
        page.resize(width, height, mobile)
        page.call("Page.navigate", url=url)
        return page


class Page:
    """A tab."""

    def __init__(self, browser, session):
        self.browser, self.session = browser, session

    def call(self, method, **params):
        return self.browser.call(method, session=self.session, **params)

    def resize(self, width, height, mobile=False):
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile
        )

    def evaluate(self, expression):
        """The value of an expression; promises are waited for."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise RuntimeError(f"{expression}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def wait(self, condition, within_s=60):
        """Waits until an expression is true. While the page loads it may well fail."""
        until, failure = time.monotonic() + within_s, None
        while True:
            try:
                if self.evaluate(f"Boolean({condition})"):
                    return
                failure = None
            except RuntimeError as error:
                failure = error
            if time.monotonic() > until:
                raise TimeoutError(f"the page does not come to: {condition}") from failure
            time.sleep(0.1)

    def screenshot(self, path, whole=True):
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        with open(path, "wb") as file:
            file.write(base64.b64decode(data))

    def of(self, method):
        """What the browser told of this page so far, by the event's name."""
        own = (event for event in self.browser.events if event.get("sessionId") == self.session)
        return [event["params"] for event in own if event.get("method") == method]

    def complaints(self):
        """Exceptions and errors that the page caused."""
        thrown = [e["exceptionDetails"]["text"] for e in self.of("Runtime.exceptionThrown")]
        logged = [e["entry"]["text"] for e in self.of("Log.entryAdded") if e["entry"]["level"] == "error"]
        return thrown + logged

    def requests(self):
        """Every URL that the page asked for."""
        return [event["request"]["url"] for event in self.of("Network.requestWillBeSent")]
