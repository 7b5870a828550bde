"""The bridge to 3D Slicer's scene: volumes to frames, markups to prompts and back, masks to segmentations.

Works in the Slicer application and on the slicer-core wheel alike. Imports `slicer` and `vtk`, never `torch`,
`sam2` or `qt`.
"""
