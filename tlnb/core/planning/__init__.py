"""Plans: options, recipes, freezing patterns and edits, and fitting them to a network and its data."""
