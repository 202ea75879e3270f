"""What the guest consists of: busybox, init, the test programs, the binaries."""

from pathlib import Path

from roost.kernels import initramfs

HERE = Path(__file__).resolve().parent


def base_archive(tools, programs, only=""):
    """The part that all kernels share."""
    archive = initramfs.Archive()
    for name in ("proc", "sys", "dev", "tmp", "run", "root", "modules"):
        archive.directory(f"/{name}")
    # The kernel opens the console before init can mount /dev.
    archive.device("/dev/console", 5, 1)
    archive.file("/bin/busybox", tools.busybox.read_bytes(), 0o755)
    archive.symlink("/bin/sh", "busybox")
    archive.file("/init", (HERE / "init").read_bytes(), 0o755)
    for name, path in programs.binaries.items():
        archive.file(f"/bin/{name}", path.read_bytes(), 0o755)
        # Tests know the binaries by the path at which cargo built them.
        archive.symlink(path, f"/bin/{name}")
    for name, path in programs.tests.items():
        if only in name:
            archive.file(f"/tests/{name}", path.read_bytes(), 0o755)
    for path in sorted((HERE / "guest-tests").glob("*.sh")):
        if only in path.name:
            archive.file(f"/tests/{path.name}", path.read_bytes())
    for path in sorted((HERE / "guest-lib").glob("*.sh")):
        archive.file(f"/lib/roost/{path.name}", path.read_bytes())
    return archive.finish()


def write(path, base, kernel):
    """Writes the initramfs of one kernel: the shared part and the kernel's modules."""
    own = initramfs.Archive()
    own.directory("/modules")
    for module in kernel.modules:
        own.file(f"/modules/{module.name}", module.read_bytes())
    initramfs.write(path, base, own.finish())
