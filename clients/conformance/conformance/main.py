"""The command line: one mode against one peer."""

import argparse
import sys
import tempfile
from pathlib import Path

from . import client, gateway, worker
from .net import Child, Failure, free_address, pair, wait_for
from .report import Report


def main():
    parser = argparse.ArgumentParser(prog="run", description="Judges a peer by the numbers of protocol/SPEC.md.")
    modes = parser.add_subparsers(dest="mode", required=True)
    for name in ("client", "worker", "gateway"):
        mode = modes.add_parser(name)
        mode.add_argument("--command", help="how to start the peer, with places in braces")
        mode.add_argument("--json", metavar="FILE", help="write the verdicts there, too")
        mode.add_argument("--brief", action="store_true", help="leave out what was not tested")
        mode.add_argument("--log", metavar="FILE", help="what the peer says goes there")
        mode.add_argument("--secret-file", metavar="FILE", help="the link secret, trailing line ends ignored")
    modes.choices["client"].add_argument("--idle-command", help="a client that only stays connected")
    modes.choices["worker"].add_argument("--address", help="of a worker that runs already")
    args = parser.parse_args()
    secret = Path(args.secret_file).read_bytes().rstrip(b"\r\n") if args.secret_file else None
    report, child = Report(args.mode), None
    try:
        if args.mode == "client":
            if not args.command:
                parser.error("--command is needed")
            client.play(report, args.command, args.idle_command, args.log)
        elif args.mode == "gateway":
            if not args.command:
                parser.error("--command is needed")
            with tempfile.TemporaryDirectory() as folder:
                gateway.play(report, args.command, secret, folder, args.log)
        else:
            address = args.address or free_address()
            if args.command:
                child = Child(args.command, {"address": address, "secret_file": args.secret_file or ""}, args.log)
            if not wait_for(address):
                print(f"no worker listens on {address}", file=sys.stderr)
                return 2
            worker.play(report, worker.Peer(pair(address), secret, child))
    except Failure as failure:
        report.check(failure.args[0], False, failure.args[1])
    except OSError as error:
        print(f"the peer cannot be started: {error}", file=sys.stderr)
        return 2
    finally:
        if child:
            child.stop()
    return report.say(args.json, not args.brief)
