"""Volumes and segmentations as files, without Slicer."""
