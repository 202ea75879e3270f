"""The parts of scripts/kernel-matrix: kernels, the guest, the virtual machine, the report."""
