"""The table: a row for each test, a column for each kernel."""

from dataclasses import dataclass

MISSING = "-"


@dataclass
class Counts:
    """Cells by outcome."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0


def is_red(outcome):
    return outcome not in ("ok", "skipped", MISSING)


def show(columns):
    """Prints the table for [(kernel, run)] and returns its counts; a stalled machine is a failure."""
    rows = []
    for _, run in columns:
        rows += [name for name in run.results if name not in rows]
    rows.sort()
    heads = [kernel.version.partition("~")[0] for kernel, _ in columns]
    width = max([len(name) for name in rows] + [len("virtual machine")])
    print("".join([f"{'test':{width}}"] + [f"  {head:>12}" for head in heads]))
    counts = Counts()
    for name in rows:
        cells = [run.results.get(name, MISSING) for _, run in columns]
        for cell in cells:
            count(counts, cell)
        print("".join([f"{name:{width}}"] + [f"  {cell:>12}" for cell in cells]))
    stalls = ["STALLED" if run.stall else "ok" for _, run in columns]
    for cell in stalls:
        count(counts, cell)
    print("".join([f"{'virtual machine':{width}}"] + [f"  {cell:>12}" for cell in stalls]))
    for kernel, run in columns:
        for name, reason in run.skips:
            print(f"SKIP on {kernel.version}: {name}: {reason}")
    return counts


def count(counts, cell):
    if cell == "ok":
        counts.passed += 1
    elif cell == "skipped":
        counts.skipped += 1
    elif is_red(cell):
        counts.failed += 1
