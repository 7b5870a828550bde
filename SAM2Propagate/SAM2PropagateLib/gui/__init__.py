"""The panel and the views: widgets, mouse and keys, the list of models, installing packages.

It shows what `app` says and calls it; it decides nothing of the work itself.
"""
