"""``fathom-serve``: finds Triton, starts it over a repository, watches it, and stops it in order."""
