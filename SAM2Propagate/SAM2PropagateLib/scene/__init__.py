"""Connects the library with Slicer's scene: volumes to frames, markups to prompts and back, masks to
segments.

It works in Slicer and with the package slicer-core alike. It imports `slicer` and `vtk`, never `torch`,
`sam2` or `qt`.
"""
