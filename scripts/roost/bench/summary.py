"""What the rounds come to: table, ratios, goals, JSON, and a page with plots."""

import json
import pathlib
import statistics

from roost import ROOT
from roost.bench import peers
from roost.lib import machine
from roost.lib.programs import commit

OURS = "roost"
# Shown and compared per measure: key, title, whether more is better, digits.
COLUMNS = {
    "echo": [("per_s", "msgs/s", True, 0), ("cpu_s_per_million", "CPU s/M", False, 2),
             ("user_s_per_million", "user s/M", False, 2), ("system_s_per_million", "system s/M", False, 2),
             ("core_busy_share", "core busy", None, 2)],
    "latency": [("p50_us", "p50 us", False, 0), ("p99_us", "p99 us", False, 0),
                ("cpu_s_per_million", "CPU s/M", False, 2), ("user_s_per_million", "user s/M", False, 2),
                ("send_lag_p99_us", "send lag p99 us", None, 0)],
    "accept": [("accepts_per_cpu_s", "per CPU-second", True, 0), ("user_us", "user us", False, 1),
               ("system_us", "system us", False, 1)],
    "idle": [("user_bytes", "user bytes", False, 0), ("user_bytes_slope", "from half to all", False, 0),
             ("kernel_bytes", "kernel bytes", False, 0)],
    "broadcast": [("deliveries_per_cpu_s", "per CPU-second", True, 0), ("cpu_s_per_million", "CPU s/M", False, 2),
                  ("user_s_per_million", "user s/M", False, 2)],
}
COLUMNS["multicast"] = COLUMNS["broadcast"]
COLUMNS["neighbours"] = COLUMNS["latency"]


def line(figures):
    return ", ".join(f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
                     for key, value in figures.items())


class Book:
    """All rounds: measure -> peer -> list of figures."""

    def __init__(self):
        where = {**machine.describe(), "nofile": peers.descriptors()}
        self.data = {"machine": where, "runs": [], "peers": {}, "skipped": {}, "rounds": {}}

    @classmethod
    def load(cls, path):
        book = cls()
        if path.exists():
            book.data = json.loads(path.read_text())
        return book

    def save(self, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.data["summary"] = {key: {name: self.medians(key, name) for name in found}
                                for key, found in self.data["rounds"].items()}
        path.write_text(json.dumps(self.data, indent=1) + "\n")

    def note(self, options, kinds, skipped):
        run = {key: str(value) if isinstance(value, (pathlib.Path, set)) else value
               for key, value in vars(options).items() if key != "json"}
        self.data["runs"].append({"commit": commit("scripts/bench", "scripts/roost/bench", "scripts/peers"), **run})
        self.data["peers"].update({kind.name: kind.what for kind in kinds})
        self.data["skipped"] = skipped

    def add(self, key, name, figures):
        self.data["rounds"].setdefault(key, {}).setdefault(name, []).append(figures)

    def columns(self, key):
        return COLUMNS[key.split()[0]]

    def values(self, key, name, column):
        rounds = self.data["rounds"].get(key, {}).get(name, [])
        return [figures[column] for figures in rounds if figures.get(column) is not None]

    def median(self, key, name, column):
        values = self.values(key, name, column)
        return statistics.median(values) if values else None

    def medians(self, key, name):
        return {column: {"median": self.median(key, name, column), "min": min(values), "max": max(values)}
                for column, *_ in self.columns(key) if (values := self.values(key, name, column))}

    def limited(self, key, name):
        """Whether the generator was the limit, by most rounds."""
        good = [figures for figures in self.data["rounds"][key][name] if "failed" not in figures]
        if key.startswith("echo"):
            return sum(not figures["saturated"] for figures in good) * 2 > len(good)
        return sum(figures.get("generator_limited", False) for figures in good) * 2 > len(good)

    def table(self):
        rows = []
        for key, found in self.data["rounds"].items():
            columns = self.columns(key)
            rows += ["", f"{key} clients" if key.startswith("echo") else key]
            rows.append("  " + "peer".ljust(12) + "".join(title.rjust(32) for _, title, *_ in columns))
            for name, rounds in found.items():
                cells = []
                for column, _, more, digits in columns:
                    values, ours = self.values(key, name, column), self.median(key, OURS, column)
                    if not values:
                        cells.append("none".rjust(32))
                        continue
                    middle = statistics.median(values)
                    text = f"{middle:,.{digits}f} ({min(values):,.{digits}f}-{max(values):,.{digits}f})"
                    if name != OURS and more is not None and ours and middle:
                        # How many times better ours is.
                        ratio = ours / middle if more else middle / ours
                        text += f" {ratio:.2f}x"
                    cells.append(text.rjust(32))
                notes = []
                count = max((figures.get("processes", 1) for figures in rounds), default=1)
                if count > 1:
                    notes.append(f"{count} processes")
                if self.limited(key, name):
                    notes.append("the GENERATOR was the limit" +
                                 (": no saturation figure" if key.startswith("echo") else ""))
                if any(figures.get("disturbed") for figures in rounds):
                    notes.append("DISTURBED: CPU is the processes' own, no figure to keep")
                failed = [figures["failed"] for figures in rounds if "failed" in figures]
                if failed:
                    notes.append(f"{len(failed)} of {len(rounds)} rounds FAILED: {failed[0][:200]}")
                rows.append("  " + name.ljust(12) + "".join(cells) + ("  " + "; ".join(notes) if notes else ""))
        rows += ["", "median (lowest-highest), and how many times better roost's median is", ""]
        rows += [f"SKIP {name}: {why}" for name, why in self.data["skipped"].items()]
        return "\n".join(rows)

    def goals(self):
        """(text, value, limit, whether it holds) for every goal that these rounds can judge."""
        def ratio(key, name, column, more=False):
            ours, theirs = self.median(key, OURS, column), self.median(key, name, column)
            return None if not ours or not theirs else ours / theirs if more else theirs / ours

        for key in self.data["rounds"]:
            kind = key.split()[0]
            # At a rate that leaves a core half idle, waking up is most of what it costs.
            if kind == "echo":
                for name, least in (("tokio", 1.3), ("haproxy", 2.1), ("nginx", 2.4)):
                    if name in self.data["rounds"][key]:
                        value = ratio(key, name, "cpu_s_per_million")
                        yield f"{key}: messages per CPU-second against {name}", value, ">=", least
                user = self.median(key, OURS, "user_s_per_million")
                yield f"{key}: user seconds per million", user, "<=", 0.4
                against = ratio(key, "epoll", "cpu_s_per_million")
                yield f"{key}: CPU per message against epoll", against and 1 / against, "<=", 1.1
                for name in ("tokio", "haproxy", "nginx"):
                    known = all(peer in self.data["rounds"][key] for peer in (OURS, name))
                    # Beaten for sure where ours was not even at its limit.
                    if known and not self.limited(key, name):
                        yield f"{key}: messages/s against {name}", ratio(key, name, "per_s", True), ">=", 1.0
            if kind == "latency":
                others = [name for name in ("tokio", "haproxy", "nginx")
                          if name in self.data["rounds"][key] and not self.limited(key, name)]
                for column in ("p50_us", "p99_us"):
                    best = min((m for name in others if (m := self.median(key, name, column))), default=None)
                    ours = self.median(key, OURS, column)
                    yield f"{key}: {column[:3]} against the best peer's", best and ours and ours / best, "<=", 1.0
            elif kind == "broadcast":
                against = ratio(key, "epoll", "cpu_s_per_million")
                yield f"{key}: CPU per delivery against a send() loop", against and 1 / against, "<=", 0.85
            elif kind == "idle":
                yield f"{key}: user bytes per connection", self.median(key, OURS, "user_bytes"), "<=", 64
        ours = self.median("accept greeted", OURS, "accepts_per_cpu_s")
        best = max((m for name in ("tokio", "haproxy", "nginx")
                    if (m := self.median("accept bare", name, "accepts_per_cpu_s"))), default=None)
        if ours and best:
            yield "accepts with HELLO against the best peer's bare ones", ours / best, ">=", 1.5
        crowds = [key for key in self.data["rounds"] if key.startswith("neighbours")]
        if len(crowds) > 1:
            crowds.sort(key=lambda key: int(key.split()[1]))
            for column in ("p50_us", "p99_us"):
                few, many = (self.median(key, OURS, column) for key in (crowds[0], crowds[-1]))
                yield (f"{crowds[-1]}: {column[:3]} against {crowds[0].split()[1]}",
                       few and many and many / few, "<=", 1.2)

    def verdict(self, judge):
        """Prints which goals hold, if it is to `judge` them, and how many runs failed; the number of
        what does not hold, could not be measured, or failed."""
        bad = 0
        for text, value, sign, limit in self.goals() if judge else ():
            holds = value is not None and (value >= limit if sign == ">=" else value <= limit)
            bad += not holds
            shown = "not measured" if value is None else f"{value:.2f}"
            print(f"{'ok ' if holds else 'NOT'} {text:<62} {shown:>12}   {sign} {limit}")
        failed = sum("failed" in figures for found in self.data["rounds"].values()
                     for rounds in found.values() for figures in rounds)
        print(f"{'NOT' if failed else 'ok '} {'runs that failed':<62} {failed:>12}   = 0")
        return bad + failed

    def page(self, path):
        """A page of its own beside the JSON: bars for each measure, lines where something grows."""
        text = (peers.HERE / "page.html").read_text()
        plot = (ROOT / "protocol" / "assets" / "plot.js").read_text()
        columns = {key: [[column, title] for column, title, *_ in found] for key, found in COLUMNS.items()}
        data = json.dumps({**self.data, "columns": columns}).replace("</", "<\\/")
        out = path.with_suffix(".html")
        out.write_text(text.replace("/* plot.js */", plot).replace("@RESULT@", data))
        return out
