"""How fast, and how near the limit: workloads, timing, ceilings, start-up, spot checks; `run` does it all."""
