"""The asv suite. Cases come from `softbench.workloads`, backends by name from `softbench.registry`."""
