"""Worker, gateway and generator of a large run."""

import contextlib
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request

from roost.hold.kernel import ENDINGS, Refused
from roost.lib.machine import free_port

# Clients in a namespace: an address of its first TUN device.
TUN_ADDRESS = "10.100.0.1"

# Puts the descriptor where LISTEN_FDS says it is (sd_listen_fds(3)), and becomes the gateway.
PASS_LISTENER = """
import os, sys
fd = int(sys.argv[1])
if fd != 3:
    os.dup2(fd, 3)
    os.close(fd)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
os.execv(sys.argv[2], sys.argv[2:])
"""


class Processes:
    """Worker, gateway and generator; what was started is stopped."""

    def __init__(self, options):
        self.options = options
        self.bin = options.bin_dir
        self.target, self.admin, self.stats = (f"127.0.0.1:{free_port()}" for _ in range(3))
        if options.transport == "tun":
            self.target = f"{TUN_ADDRESS}:7400"
        self.running = []
        self.generator = None
        self.worker = None
        self.listener = None
        self.is_interrupted = False

    def __enter__(self):
        for number in ENDINGS:
            signal.signal(number, self.interrupted)
        return self

    def interrupted(self, *_):
        """Ctrl-C is for the generator, which ends with a report of what was found, and at once if
        it comes again; then everything here ends."""
        self.is_interrupted = True
        if self.generator:
            self.generator.send_signal(signal.SIGINT)

    def __exit__(self, *_):
        for process in self.running:
            if process.poll() is None:
                process.kill()
        for process in self.running:
            process.wait()
        if self.listener:
            self.listener.close()

    def worker_command(self):
        worker = self.options.out / "worker.sock"
        worker.unlink(missing_ok=True)
        return [self.bin / "roost-router", "--listen", f"unix:{worker}", "--handler", "echo", "--metrics", self.stats]

    def gateway_command(self):
        interval_ms = self.options.heartbeat * 1000
        return [
            *(self.bin / "roost-gateway", "--shards", self.options.shards, "--listen", self.target),
            *("--admin-listen", self.admin, "--worker", f"unix:{self.options.out}/worker.sock"),
            *("--connections-max", self.options.connections + 10_000),
            *("--heartbeat-interval-ms", interval_ms, "--idle-timeout-ms", interval_ms * 5 // 2),
        ]

    def start(self, command, name, pass_fds=()):
        with open(self.options.out / f"{name}.log", "a") as log:
            process = subprocess.Popen(
                [str(word) for word in command],
                stdout=log, stderr=log, start_new_session=True, pass_fds=pass_fds,
            )
        self.running.append(process)
        return process

    def start_gateway(self):
        command = self.gateway_command()
        if not self.options.keep_listener:
            return self.start(command, "gateway")
        if not self.listener:
            host, port = self.target.split(":")
            # As many as net.core.somaxconn allows.
            self.listener = socket.create_server((host, int(port)), backlog=(1 << 31) - 1)
        fd = self.listener.fileno()
        return self.start([sys.executable, "-c", PASS_LISTENER, fd, *command], "gateway", (fd,))

    def start_gateway_again(self, within_s=120):
        """As a supervisor would: the kernel takes the rings of a killed process down on its own
        time, and until then they hold the listener, so that the address is in use."""
        until = time.monotonic() + within_s
        while True:
            gateway = self.start_gateway()
            if self.is_ready(gateway) or self.is_interrupted or time.monotonic() > until:
                return gateway
            time.sleep(0.1)

    def is_ready(self, process, within_s=60):
        until = time.monotonic() + within_s
        while process.poll() is None and time.monotonic() < until and not self.is_interrupted:
            try:
                with urllib.request.urlopen(f"http://{self.admin}/readyz", timeout=5):
                    return True
            except OSError:
                time.sleep(0.05)
        return False

    def load(self):
        """Runs the generator to its end."""
        options = self.options
        command = [
            *(self.bin / "roost-loadgen", "storm" if options.storm else "idle", "--target", self.target),
            *("--connections", options.connections, "--transport", options.transport, "--threads", options.threads),
            *("--duration", options.duration, "--heartbeat-s", options.heartbeat),
            *("--connect-rate", options.connect_rate, "--memory-floor-mib", options.memory_floor_mib),
            *("--active", options.connections, "--rate", options.rate, "--check-rate", options.check_rate),
            *("--worker-stats", f"http://{self.stats}/stats", "--gateway-metrics", f"http://{self.admin}/metrics"),
            *("--json", options.report("json"), "--html", options.report("html")),
        ]
        gateway = None
        if options.transport == "tun":
            for spawned in (self.worker_command(), self.gateway_command()):
                command += ["--spawn", shlex.join(str(word) for word in spawned)]
            command += ["--spawn-log-dir", options.out]
        else:
            worker = self.worker = self.start(self.worker_command(), "worker")
            gateway = self.start_gateway()
            if not self.is_ready(gateway):
                if self.is_interrupted:
                    raise KeyboardInterrupt
                raise Refused(f"the gateway is not ready: see {options.out}/gateway.log")
            command += ["--gateway-pid", gateway.pid, "--worker-pid", worker.pid]
        if options.storm:
            wanted, done = options.out / "restart", options.out / "restarted"
            wanted.unlink(missing_ok=True), done.unlink(missing_ok=True)
            wait = f"touch {shlex.quote(str(wanted))}; until [ -s {shlex.quote(str(done))} ]; do sleep 0.05; done"
            command += ["--restart-command", f"{wait}; cat {shlex.quote(str(done))}"]
        # In a session of its own, so that Ctrl-C comes to it once: from here.
        generator = subprocess.Popen([str(word) for word in command], start_new_session=True)
        self.running.append(generator)
        self.generator = generator
        if self.is_interrupted:
            generator.send_signal(signal.SIGINT)
        while generator.poll() is None:
            if options.storm and wanted.exists() and not done.exists():
                # As if it had crashed: no client is told to wait.
                gateway.kill()
                gateway.wait()
                gateway = self.start_gateway_again()
                done.write_text(f"{gateway.pid}\n")
            time.sleep(0.05)
        if options.storm and not done.exists():
            # It ended between: its command waits no longer.
            done.write_text("none\n")

    def ask_a_stopped_worker(self):
        """The same traffic with the worker stopped: nothing may come back."""
        print("== ten clients while the worker is stopped", flush=True)
        self.worker.send_signal(signal.SIGSTOP)
        self.generate("stopped", "echo", "--target", self.target, "--connections", 10, "--active", 10, "--rate", 10,
                      "--duration", 2, "--warmup", 0, "--grace-s", 2)
        self.worker.send_signal(signal.SIGCONT)

    def hold_on_a_bare_server(self):
        """As many clients on a server that arms nothing: what the kernel charges in any case."""
        print("== as many clients on a server that arms nothing: the kernel's floor", flush=True)
        bare, n = f"127.0.0.1:{free_port()}", self.options.connections
        self.start([self.bin / "roost-loadgen", "bare-accept", "--listen", bare, "--connections", n + 2_000], "bare")
        host, port = bare.split(":")
        until = time.monotonic() + 60
        while time.monotonic() < until:
            with contextlib.suppress(OSError), socket.create_connection((host, int(port)), 5):
                break
            time.sleep(0.05)
        self.generate(self.options.bare, "idle", "--bare", "--target", bare, "--connections", n, "--duration", 5,
                      "--connect-rate", self.options.connect_rate)

    def generate(self, name, *words):
        """Runs the generator beside what is there; its report has this name. That it fails may be wanted."""
        command = [self.bin / "roost-loadgen", *words, "--json", self.options.report("json", name)]
        process = self.start(command, name)
        while process.poll() is None and not self.is_interrupted:
            time.sleep(0.05)
