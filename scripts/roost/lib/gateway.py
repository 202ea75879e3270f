"""A gateway of its own for a test: started on ports of the kernel's choice, stopped at the end."""

import contextlib
import pathlib
import re
import secrets
import subprocess
import sys
import tempfile
import time
import urllib.request


class Gateway:
    """A gateway, with its worker inside unless `flags` name one."""

    def __init__(self, binary, flags=(), listen="127.0.0.1:0"):
        self.directory = tempfile.TemporaryDirectory(prefix="roost-test-")
        self.token = secrets.token_hex(16)
        token_file = pathlib.Path(self.directory.name, "token")
        token_file.write_text(self.token)
        own = ["--listen", listen, "--admin-listen", "127.0.0.1:0", "--shards", "2"]
        self.log = open(pathlib.Path(self.directory.name, "log"), "w+")
        self.process = subprocess.Popen(
            [binary, *own, "--admin-token-file", token_file, *flags], stdout=self.log, stderr=self.log
        )
        self.clients = self.find(r"clients +[0-9.]+:(\d+)")
        self.admin = self.find(r"http://127\.0\.0\.1:(\d+)/|address=127\.0\.0\.1:(\d+)")

    def find(self, pattern, within_s=60):
        until = time.monotonic() + within_s
        while True:
            text = pathlib.Path(self.log.name).read_text()
            found = re.search(pattern, text)
            if found:
                return int(next(filter(None, found.groups())))
            if self.process.poll() is not None or time.monotonic() > until:
                self.process.kill()
                sys.exit(f"the gateway did not start:\n{text}")
            time.sleep(0.05)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()
        self.log.close()
        self.directory.cleanup()

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
            # The second signal hurries the drain.
            time.sleep(0.5)
            with contextlib.suppress(ProcessLookupError):
                self.process.terminate()
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()

    def url(self, path=""):
        return f"http://127.0.0.1:{self.admin}/{path}"

    def metrics(self):
        return metrics(self.url())


def metrics(page):
    """What the gateway with this page counts: series name -> list of (labels, value)."""
    with urllib.request.urlopen(f"{page}metrics", timeout=30) as answer:
        text = answer.read().decode()
    series = {}
    for line in text.splitlines():
        match = re.fullmatch(r"([a-z_]+)(?:\{(.*)\})? (\S+)", line)
        if match:
            labels = dict(re.findall(r'([a-z_]+)="((?:[^"\\]|\\.)*)"', match[2] or ""))
            series.setdefault(match[1], []).append((labels, float(match[3])))
    return series
