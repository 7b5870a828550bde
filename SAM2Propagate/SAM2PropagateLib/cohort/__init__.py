"""Segments many volumes in one run, shared out over processes and computers."""
