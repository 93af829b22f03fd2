"""Measuring on a CUDA GPU: the self-test, its checks, who is timed, and the goals."""
