"""What a rollout is worth, from its outcome and its frames; and how true that is."""
