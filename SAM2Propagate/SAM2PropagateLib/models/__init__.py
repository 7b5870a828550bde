"""Lists, downloads and verifies models."""
