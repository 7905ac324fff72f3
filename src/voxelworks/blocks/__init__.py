"""Run the blocks of a job in parallel: progress, cancellation, retry, checkpoints and memory limits."""
