"""Labels of pairs of moments: which comes nearer to a goal, and the audit of what was said."""
