"""The examples in docs/examples, with a real gateway between them."""

import re
import subprocess
import sys
import unittest

from .programs import REPOSITORY
from .test_with_gateway import BINARY, TIMEOUT_S, Gateway

EXAMPLES = REPOSITORY / "docs/examples"


@unittest.skipUnless(BINARY, "no gateway is built: cargo build -p roost-gateway")
class ChatTest(unittest.TestCase):
    def start(self, program, *arguments):
        process = subprocess.Popen([sys.executable, "-B", EXAMPLES / program, *arguments], stdin=subprocess.PIPE,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1)

        def stop():
            process.kill()
            process.wait()
            for each in (process.stdin, process.stdout, process.stderr):
                each.close()
        self.addCleanup(stop)
        return process

    def test_a_room(self):
        worker = self.start("chat_worker.py", "--listen", "127.0.0.1:0")
        gateway = Gateway({"w": worker.stdout.readline().split()[-1]})
        self.addCleanup(gateway.stop)
        ada = self.start("chat_client.py", gateway.address, "--room", "kitchen", "--name", "ada")
        self.assertEqual(ada.stdout.readline(), "ada is here\n")
        bob = self.start("chat_client.py", gateway.address, "--room", "kitchen", "--name", "bob")
        self.assertEqual([ada.stdout.readline(), bob.stdout.readline()], ["bob is here\n"] * 2)
        ada.stdin.write("tea?\n")
        self.assertEqual([ada.stdout.readline(), bob.stdout.readline()], ["ada: tea?\n"] * 2)
        ada.stdin.close()
        self.assertEqual(ada.wait(TIMEOUT_S), 0)
        self.assertEqual(bob.stdout.readline(), "ada has left\n")
        late = self.start("chat_client.py", gateway.address, "--name", "toolongname")
        self.assertTrue(re.match("-- worker_rejected a name has 1 to 8 bytes", late.stderr.readline()))


class EchoTest(unittest.TestCase):
    def test_the_worker_in_the_readme_is_the_example(self):
        def program(text):
            return text[text.index("class Echo"):].split("\n\n\n")[0]
        readme = (EXAMPLES.parents[1] / "clients/python/README.md").read_text(encoding="utf-8")
        self.assertEqual(program(readme).split("\n```")[0], program((EXAMPLES / "echo_worker.py").read_text()))
