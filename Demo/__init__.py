"""The main job on the CT that ships with the project, from a click to a saved scene."""
