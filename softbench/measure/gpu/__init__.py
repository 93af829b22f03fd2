"""Measuring on a CUDA GPU: the self-test, its checks, what is timed, and the goals."""
