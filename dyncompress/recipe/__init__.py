"""Text files for people: recipes, targets and plans as TOML, profiles as JSON, and the files that come with the library."""
