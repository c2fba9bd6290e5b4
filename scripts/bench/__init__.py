"""How fast the simulators, the policy and the encoders are, beside named peers: `python -m scripts.bench`."""
