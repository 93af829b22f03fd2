"""What is true, and how far off a result is: the oracle, ball arithmetic, the ulp metric, gates, hard inputs."""
