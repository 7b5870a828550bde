"""The window: panels and slice-view interaction."""
