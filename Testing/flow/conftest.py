from Testing.headless.fixtures import headless, openView  # noqa: F401
