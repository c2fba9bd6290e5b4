"""How good a reward is: measured on rollouts whose true progress is known."""
