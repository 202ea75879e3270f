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
        self.failed = 0

    def say(self, text):
        print(text, flush=True)
        self.lines.append(text)

    def line(self, what, value, limit, ok):
        self.failed += not ok
        self.say(f"{'ok ' if ok else 'NOT'} {what:<58} {value!s:>12}   {limit}")

    def equal(self, what, value, wanted):
        self.line(what, value, f"= {wanted}", value is not None and value == wanted)

    def at_most(self, what, value, limit):
        shown = "null" if value is None else round(value, 1)
        self.line(what, shown, f"<= {limit:g}", value is not None and value <= limit)

    def note(self, what, value):
        """A figure without a limit."""
        self.say(f" -  {what:<58} {value!s:>12}")
