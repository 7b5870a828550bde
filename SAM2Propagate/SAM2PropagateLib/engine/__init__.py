"""SAM 2 over the frames of a volume. Imports torch: for the worker process only."""
