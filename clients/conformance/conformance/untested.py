"""Why a number has no verdict. A number that is not listed here was simply not reached in this run."""

REASONS = {
    "what a peer does inside, and nothing on the wire shows it": "L-37 L-38 L-56 L-63 L-69 L-96 L-118 E-72",
    "needs more clients or memory than this program takes": "E-63 E-64 E-43 E-62 E-37 E-69 E-70 E-71",
    "needs the operator: a configuration, a reload or a stopped process": "L-22 L-38 L-44 R-4 R-5 E-42 E-88",
    "advice of which no single run shows a breach": "E-26 E-28 E-39 E-85 E-87 L-58 L-95 L-117",
    "defines a value or a limit that other numbers use": "E-5 L-4 L-11 L-59 L-36 L-46",
    "takes longer than a run may": "L-16 L-23 L-24 L-49 E-67",
}


def why_untested(number, mode):
    """One line for the table."""
    for reason, numbers in REASONS.items():
        if number in numbers.split():
            return reason
    return f"no scenario of the mode `{mode}` reached it"
