"""The lines at the end of a script that say what holds and what does not."""

import json


def read(path):
    """A report; empty where there is none, so that every line about it says NOT."""
    try:
        with open(path) as file:
            return json.load(file)
    except (OSError, ValueError):
        return {}


class Verdict:
    """Prints each line as it is found, and keeps what was said."""

    def __init__(self):
        self.lines = []
        self.checks = []

    @property
    def failed(self):
        """How many lines do not hold."""
        return sum(not check["ok"] for check in self.checks)

    def say(self, text):
        print(text, flush=True)
        self.lines.append(text)

    def line(self, what, value, limit, ok):
        self.checks.append({"what": what, "value": value, "limit": limit, "ok": bool(ok)})
        self.say(f"{'ok ' if ok else 'NOT'} {what:<58} {value!s:>12}   {limit}")

    def equal(self, what, value, wanted):
        self.line(what, value, f"= {wanted}", value is not None and value == wanted)

    def at_most(self, what, value, limit):
        self.line(what, short(value), f"<= {limit:.10g}", value is not None and value <= limit)

    def at_least(self, what, value, limit):
        self.line(what, short(value), f">= {limit:.10g}", value is not None and value >= limit)

    def replies(self, report, whose=""):
        """What is never to be wrong with replies, in a report of the load generator."""
        for key in ("lost", "duplicated", "reordered", "misdelivered", "corrupted"):
            self.equal(f"messages {whose}{key}", report.get(key), 0)

    def heartbeats(self, report):
        """All that were due were answered, in a report of the load generator."""
        beats = report.get("heartbeats", {})
        due, answered = beats.get("due", 0), beats.get("answered")
        self.line("heartbeats answered of those due", f"{answered}/{due}", "all", due > 0 and answered == due)

    def handled(self, report):
        """The worker counts as many messages as were sent, in a report of the load generator."""
        handled = report.get("worker", {}).get("messages_handled")
        self.equal("messages handled, as the worker counts", handled, report.get("messages_sent"))

    def note(self, what, value):
        """A figure without a limit."""
        self.say(f" -  {what:<58} {value!s:>12}")


def short(value):
    """A figure as it is shown and kept."""
    return round(value, 3) if isinstance(value, float) else value
