"""Verdicts by requirement number."""

import json
import re
from pathlib import Path

from .net import Failure
from .untested import why_untested

SPEC = Path(__file__).resolve().parents[3] / "protocol/SPEC.md"
# Which mode judges which numbers: those of the other modes are not in the table.
MODES = {"client": "E", "worker": "L", "gateway": "ERL"}


def requirements():
    """Number: its text, from SPEC.md."""
    text = SPEC.read_text(encoding="utf-8")
    parts = re.split(r"\*\*([ERL]-\d+)\*\*", text)
    return {number: " ".join(re.sub(r"[|*`]", " ", body).split())[:90] for number, body in zip(parts[1::2], parts[2::2])}


class Report:
    """What was found."""

    def __init__(self, mode):
        self.mode, self.seen = mode, {}  # number: [(ok, what)]

    def check(self, number, ok, what):
        """Notes that the requirement held or did not; returns whether it did."""
        self.seen.setdefault(number, []).append((bool(ok), what))
        return ok

    def need(self, number, ok, what):
        """As check, and ends the scenario if it did not hold."""
        if not self.check(number, ok, what):
            raise Failure(number, what)

    def run(self, scenario, *args):
        """Runs a scenario. What it meets unexpectedly counts against its first number."""
        try:
            scenario(self, *args)
        except Failure as failure:
            if not any(what == failure.args[1] for _, what in self.seen.get(failure.args[0], [])):
                self.check(failure.args[0], False, failure.args[1])
        except Exception as error:  # The peer has done what no scenario expects.
            name = f"{scenario.__name__}: {type(error).__name__}: {error}"
            self.check(scenario.numbers[0], False, name)

    def verdicts(self):
        """Rows: number, verdict, why."""
        rows = []
        for number in requirements():
            if number[0] not in MODES[self.mode]:
                continue
            found = self.seen.get(number)
            if found is None:
                rows.append((number, "not tested", why_untested(number, self.mode)))
            elif all(ok for ok, _ in found):
                rows.append((number, "pass", found[0][1]))
            else:
                rows.append((number, "FAIL", next(what for ok, what in found if not ok)))
        return rows

    def say(self, json_path=None, show_untested=True):
        """Prints the table; returns the exit code."""
        rows, texts = self.verdicts(), requirements()
        for number, verdict, why in rows:
            if verdict != "not tested" or show_untested:
                print(f"{number:6} {verdict:10} {why}")
        counts = {verdict: sum(row[1] == verdict for row in rows) for verdict in ("pass", "FAIL", "not tested")}
        print(f"{self.mode}: {counts['pass']} pass, {counts['FAIL']} fail, {counts['not tested']} not tested")
        if json_path:
            result = {"mode": self.mode, "counts": counts, "requirements": [
                {"number": n, "verdict": v, "why": w, "text": texts[n]} for n, v, w in rows]}
            Path(json_path).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        return 1 if counts["FAIL"] else 0


def judges(*numbers):
    """Marks a scenario with the numbers that it judges; the first is that of surprises."""
    def mark(scenario):
        scenario.numbers = numbers
        return scenario
    return mark
