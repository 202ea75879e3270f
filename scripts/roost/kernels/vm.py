"""One boot of one kernel: runs qemu, follows the markers on the serial console."""

import os
import re
import selectors
import subprocess
import time
from dataclasses import dataclass, field

# The guest prints a tick every few seconds as long as it runs at all; a test that hangs is
# ended by the guest itself, so a missing tick means that the virtual machine stands still.
BOOT_MAX_S = 240
TICK_MISSING_MAX_S = 150
MARKER = re.compile(r"@@roost (\w+) ?(.*)")
# A tick may come between a test's name and its outcome, which then stands alone.
UNFINISHED = re.compile(r"^test (\S+)(?: - should panic)? \.\.\. ")
LIBTEST = re.compile(r"^test (\S+)(?: - should panic)? \.\.\. (?:.*\b)?(ok|FAILED|ignored)\b")


@dataclass
class Run:
    """What a boot reported."""

    release: str = ""
    results: dict = field(default_factory=dict)  # name -> "ok" | "FAILED" | "skipped"
    skips: list = field(default_factory=list)
    figures: dict = field(default_factory=dict)  # program -> [{"name": ..., key: value, ...}]
    seconds: float = 0.0
    boot_s: float = 0.0
    finished: bool = False
    stall: str = ""


def accelerator():
    """Software emulation: it works everywhere. ROOST_QEMU_ACCEL=kvm is for hosts where KVM is known
    to work; a device that can be opened proves nothing inside a virtual machine."""
    return os.environ.get("ROOST_QEMU_ACCEL", "tcg")


def command(tools, kernel, initramfs, accel, memory_mib, cpus, environment=""):
    # no_timer_check: on a busy host an emulated timer comes too late for a test that the kernel makes
    # at start, and it would panic ("IO-APIC + timer doesn't work").
    return [
        *tools.qemu, "-accel", accel, "-cpu", "max", "-m", f"{memory_mib}M", "-smp", str(cpus),
        "-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-monitor", "none",
        "-no-reboot", "-kernel", str(kernel.image), "-initrd", str(initramfs),
        "-append", "console=ttyS0 quiet loglevel=1 panic=-1 no_timer_check random.trust_cpu=on rdinit=/init "
        f"{environment}",
    ]


def boot(tools, kernel, initramfs, log, deadline_s, accel, memory_mib=1024, cpus=2, environment=""):
    """Boots and follows until the guest is done, stalls, or the deadline passes."""
    started = time.monotonic()
    run = Run()
    process = subprocess.Popen(
        command(tools, kernel, initramfs, accel, memory_mib, cpus, environment), env=tools.environment,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )
    reader = Reader(run, started)
    try:
        with open(log, "wb") as out, selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            heard = started
            while not run.stall:
                if selector.select(timeout=5):
                    data = os.read(process.stdout.fileno(), 65536)
                    if not data:
                        break
                    out.write(data)
                    out.flush()
                    reader.feed(data)
                    heard = time.monotonic()
                now = time.monotonic()
                if not run.boot_s and now - started > BOOT_MAX_S:
                    run.stall = f"not booted after {BOOT_MAX_S} s"
                elif run.boot_s and now - heard > TICK_MISSING_MAX_S:
                    run.stall = f"nothing on the console for {TICK_MISSING_MAX_S} s"
                elif now - started > deadline_s:
                    run.stall = f"not done after {deadline_s} s"
    finally:
        process.kill()
        process.wait()
    run.seconds = time.monotonic() - started
    if not run.finished and not run.stall:
        run.stall = f"the machine stopped early (qemu's exit code {process.returncode})"
    return run


class Reader:
    """Turns console text into results."""

    def __init__(self, run, started):
        self._run, self._started = run, started
        self._partial = b""
        self._current = None
        self._named = 0
        self._ignored = 0
        self._unfinished = None

    def feed(self, data):
        *lines, self._partial = (self._partial + data).split(b"\n")
        for line in lines:
            self._line(line.decode(errors="replace").rstrip("\r"))

    def _line(self, line):
        test = LIBTEST.match(line)
        if test:
            self._outcome(test[1], test[2])
            return
        begun = UNFINISHED.match(line)
        if begun:
            self._unfinished = begun[1]
        elif self._unfinished and line in ("ok", "FAILED"):
            self._outcome(self._unfinished, line)
        marker = MARKER.search(line)
        if marker:
            getattr(self, f"_on_{marker[1]}", lambda _: None)(marker[2])

    def _outcome(self, test, outcome):
        self._unfinished = None
        if not self._current:
            return
        # Ignored ones are measurements: nothing that could be green or red.
        if outcome == "ignored":
            self._ignored += 1
            return
        self._named += 1
        self._run.results[f"{self._current}::{test}"] = outcome

    def _on_boot(self, release):
        self._run.release = release.strip()
        self._run.boot_s = time.monotonic() - self._started

    def _on_run(self, name):
        self._current, self._named, self._ignored, self._unfinished = name.strip(), 0, 0, None

    def _on_end(self, text):
        name, code = text.split()
        # A test program whose exit code is bad is red even if every test it named was green.
        named_red = any(
            outcome == "FAILED" for key, outcome in self._run.results.items() if key.startswith(f"{name}::")
        )
        if code == "77":
            self._run.results[name] = "skipped"
        elif code != "0" and not named_red:
            self._run.results[name] = "TIMEOUT" if code in ("124", "143") else f"exit {code}"
        elif self._named == 0 and self._ignored == 0:
            # Scripts name no tests; a test program that ran none is no success.
            is_script = name.endswith(".sh") or name == "kernel-log"
            self._run.results[name] = "ok" if is_script else "no test"
        self._current = None

    def _on_skip(self, text):
        """`program: name: reason`, as tests write it to ROOST_SKIP_FILE."""
        program, _, rest = text.partition(" ")
        name, _, reason = rest.partition(":")
        self._run.skips.append((name.strip(), reason.strip()))
        for key in self._run.results:
            if key.startswith(f"{program}::") and key.endswith(name.strip()):
                self._run.results[key] = "skipped"

    def _on_figure(self, text):
        """`program name key=value...`, as tests write it to ROOST_FIGURES_FILE; `text=` takes the rest."""
        program, _, line = text.partition(" ")
        line, _, rest = line.partition(" text=")
        name, *pairs = line.split()
        figure = {"name": name} | {key: number(value) for key, _, value in (pair.partition("=") for pair in pairs)}
        self._run.figures.setdefault(program, []).append(figure | ({"text": rest} if rest else {}))

    def _on_done(self, _):
        self._run.finished = True


def number(text):
    """The number that a text is, or the text."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text
