"""Learning from logs alone: preferences of a vision-language model, a reward from them, and offline RL on that."""
