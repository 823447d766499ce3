"""Kernels in C++ for CPUs, compiled where they are used: optional, and with the same results as the layers."""
