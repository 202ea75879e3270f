"""How a script ends from outside."""

import signal
import sys


def leave_on(*numbers):
    """On these signals: leaves through the blocks that stop what was started, once. The next signal
    would cut the tidying short."""
    def leave(number, _frame):
        for each in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(each, signal.SIG_IGN)
        sys.exit(128 + number)

    for number in numbers:
        signal.signal(number, leave)
