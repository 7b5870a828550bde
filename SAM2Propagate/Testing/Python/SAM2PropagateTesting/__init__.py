"""What the tests that run inside Slicer share with those that run without it: a desk and cases."""
