"""C++ kernels for CPUs, compiled on first use: optional, with the same results as the layers."""
