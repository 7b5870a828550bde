from Headless.fixtures import data_tree, headless, openView  # noqa: F401
