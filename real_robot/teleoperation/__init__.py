"""A person drives an arm: by a keyboard or a leader arm, alone or taking over from a policy."""
