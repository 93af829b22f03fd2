"""The asv suite. Cases come from `softbench.measure.workloads`, backends by name from `softbench.registry`."""
