from Testing.headless.fixtures import data_tree, headless, openView  # noqa: F401
