"""Optional C++ kernels for CPUs, compiled on first use; they compute the same functions as the layers."""
