"""Arms behind one protocol."""
