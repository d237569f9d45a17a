"""Text that a person edits: recipes, targets, plans and profiles, how they are read, and where the shipped ones lie."""
