"""jit for tests' programs, most of which take far longer to compile than to run."""

import functools

import jax

LEVEL = {"xla_backend_optimization_level": "0"}

quick_jit = functools.partial(jax.jit, compiler_options=LEVEL)
"""`jax.jit` without LLVM's optimisations: half the time to compile; products and our kernels are as fast as ever."""

QUICKLY = " ".join(f"--{name}={value}" for name, value in LEVEL.items())
"""The same for all programs of a process, as `XLA_FLAGS`."""
