"""Seccomp profiles in the form that container engines read (OCI runtime specification,
linux.seccomp), compiled to a filter for the calling process; see seccomp(2)."""

import ctypes
import json
import os
import platform
import struct
import subprocess

SCMP_ACTIONS = {"SCMP_ACT_ALLOW": 0x7FFF0000, "SCMP_ACT_KILL_PROCESS": 0x80000000, "SCMP_ACT_ERRNO": 0x00050000}
AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
X32_BIT = 0x40000000
PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, SECCOMP_MODE_FILTER = 22, 38, 2
LOAD_WORD, JUMP_EQUAL, JUMP_AT_LEAST, RETURN = 0x20, 0x15, 0x35, 0x06
NUMBER_OFFSET, ARCH_OFFSET = 0, 4


def numbers():
    """System call numbers by name, as the C library's headers have them."""
    text = subprocess.run(
        ["cc", "-E", "-dM", "-x", "c", "-"], input="#include <sys/syscall.h>\n",
        capture_output=True, text=True, check=True,
    ).stdout
    found = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) == 3 and words[1].startswith("__NR_") and words[2].isdigit():
            found[words[1][len("__NR_"):]] = int(words[2])
    return found


def load(path):
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def allowed(profile):
    """The names that a profile allows."""
    return {name for entry in profile["syscalls"] if entry["action"] == "SCMP_ACT_ALLOW" for name in entry["names"]}


def compile_filter(names, otherwise):
    """A filter that allows `names` and answers anything else with the action `otherwise`."""
    known = numbers()

    def step(code, jump_true, jump_false, value):
        return struct.pack("HBBI", code, jump_true, jump_false, value)

    kill = step(RETURN, 0, 0, SCMP_ACTIONS["SCMP_ACT_KILL_PROCESS"])
    program = [
        step(LOAD_WORD, 0, 0, ARCH_OFFSET),
        step(JUMP_EQUAL, 1, 0, AUDIT_ARCH[platform.machine()]), kill,
        step(LOAD_WORD, 0, 0, NUMBER_OFFSET),
        step(JUMP_AT_LEAST, 0, 1, X32_BIT), kill,
    ]
    # Names that this architecture does not have are skipped, as container engines do.
    for number in sorted(known[name] for name in names if name in known):
        program.append(step(JUMP_EQUAL, 0, 1, number))
        program.append(step(RETURN, 0, 0, SCMP_ACTIONS["SCMP_ACT_ALLOW"]))
    program.append(step(RETURN, 0, 0, otherwise))
    return b"".join(program)


def enter(program):
    """Puts this process under a filter, for good."""
    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]

    libc = ctypes.CDLL(None, use_errno=True)
    text = ctypes.create_string_buffer(program, len(program))
    described = Program(len(program) // 8, ctypes.cast(text, ctypes.c_void_p))
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(
        PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(described), 0, 0
    ):
        raise OSError(ctypes.get_errno(), "seccomp")


def errno_action(number):
    return SCMP_ACTIONS["SCMP_ACT_ERRNO"] | number


def run_under(program, command):
    """Replaces this process by `command` under the filter."""
    enter(program)
    os.execv(command[0], command)
