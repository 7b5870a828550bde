"""A published experiment on whole data sets: many cases, several models, every kind of prompt."""
