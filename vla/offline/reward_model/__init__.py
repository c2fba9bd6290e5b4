"""A reward fitted to preferences, and what is done with it: relabelling, comparison."""
