"""Runs SAM 2 over the frames of a volume. It imports torch, so only the worker process may use it."""
