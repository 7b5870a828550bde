"""Measurements of accuracy, speed and streaming: `python3 run.py bench`."""
