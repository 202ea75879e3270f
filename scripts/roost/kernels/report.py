"""The lasting result: outcomes and figures of each kernel, in a JSON file that runs are merged into."""

import json
import os
import time
from pathlib import Path

from roost.kernels.table import Counts, count

TIERS = ["base", "deferred", "direct"]


def load(path):
    """The report in a file, or an empty one."""
    path = Path(path)
    return json.loads(path.read_text()) if path.exists() else {"kernels": []}


def save(path, report):
    partial = f"{path}.partial"
    Path(partial).write_text(json.dumps(report, indent=1) + "\n")
    os.replace(partial, path)


def merge(report, kernel, runs, context):
    """Takes the boots of a kernel in: the last one counts, and every stall is told. Programs that
    did not run this time stay as they are."""
    entry = next((k for k in report["kernels"] if k["version"] == kernel.version), None)
    if not entry:
        entry = {"version": kernel.version, "programs": {}}
        report["kernels"].append(entry)
    last = runs[-1]
    entry["release"] = last.release or kernel.release
    how = context | {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "boot_s": round(last.boot_s, 1),
        "stalls": [run.stall for run in runs if run.stall],
    }
    for program, results in by_program(last.results).items():
        reasons = [f"{name}: {reason}" for name, reason in last.skips if name in program or name in results]
        entry["programs"][program] = how | {
            "results": results, "skips": reasons, "figures": last.figures.get(program, []),
        }
    report["kernels"].sort(key=lambda k: [int(n) for n in k["version"].split("-")[0].split(".")])
    sum_up(entry, last)


def by_program(results):
    found = {}
    for name, outcome in results.items():
        program, _, test = name.partition("::")
        found.setdefault(program, {})[test or program] = outcome
    return found


def sum_up(entry, last):
    counts = Counts()
    for program in entry["programs"].values():
        for outcome in program["results"].values():
            count(counts, outcome)
    if last.stall:
        counts.failed += 1
    entry["passed"], entry["failed"], entry["skipped"] = counts.passed, counts.failed, counts.skipped
    closes = figures(entry, "close")
    entry["tiers"] = {
        tier: next(f["descriptors"] for f in closes if f["tier"] == tier)
        for tier in TIERS if any(f["tier"] == tier for f in closes)
    }


def figures(entry, name):
    return [f for program in entry["programs"].values() for f in program["figures"] if f["name"] == name]


HEAD = """\
| kernel | tier | clients are | slowest of 500 peers to see its end | slab before, after a churn; growth | clients; replies of messages sent |
|---|---|---|---|---|---|"""


def summary(report):
    """The figures as Markdown: a line for each kernel and tier."""
    lines = [HEAD]
    for entry in report["kernels"]:
        for tier, descriptors in entry["tiers"].items():
            mine = lambda name: [f for f in figures(entry, name) if f["tier"] == tier]
            slowest = max(f["slowest_ms"] for f in mine("close"))
            ends = ", ".join(f"{f['messages_right']:,} of {f['messages_sent']:,} ({where(f['worker'])})"
                             for f in mine("end-to-end")) or "-"
            clients = min((f["clients"] for f in mine("end-to-end")), default="-")
            lines.append(
                f"| {entry['version'].partition('~')[0]} | `{tier}` | {descriptors} descriptors | {slowest:.0f} ms | "
                f"{'; '.join(map(slab, mine('churn'))) or '-'} | {clients}: {ends} |"
            )
    lines += ["", "| kernel | tests passed, failed, skipped | refusals: `--features-max none`, `kernel.io_uring_disabled=2` |", "|---|---|---|"]
    for entry in report["kernels"]:
        refusals = "; ".join(f"exit code {f['exit_code']}: `{f['text']}`" for f in figures(entry, "refusal"))
        lines.append(
            f"| {entry['version'].partition('~')[0]} | {entry['passed']}, {entry['failed']}, {entry['skipped']} | "
            f"{refusals or '-'} |"
        )
    return lines


def slab(figure):
    before, after = figure["slab_before_bytes"], figure["slab_after_bytes"]
    growth = f"{(after - before) / 2**10:+,.0f} KiB"
    return f"{before / 2**20:.1f}, {after / 2**20:.1f} MiB; {growth} after {figure['connections']:,} connections"


def where(worker):
    return {"inside": "inside"}.get(worker, "Unix" if worker.startswith("unix:") else "TCP")
