"""What to train: plans, options, recipes, edits, and the magic lines for them."""
