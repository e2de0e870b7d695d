"""The engine: no IPython, no widgets, no printing. Modules import from lower floors only (pyproject.toml, importlinter)."""
