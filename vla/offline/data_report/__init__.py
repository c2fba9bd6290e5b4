"""What a data set is good for: its quality and coverage, its broken episodes, and which method to learn with."""
