"""The panel and the views: widgets, mouse and keys, the list of models, installing packages.

It shows the state of `app` and calls it, and makes no decision about the work itself.
"""
