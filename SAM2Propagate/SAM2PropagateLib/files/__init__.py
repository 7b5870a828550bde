"""Reads and writes volumes and segmentations in files, without Slicer."""
