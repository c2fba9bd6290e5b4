"""`vla check`: whether a suite or a policy of your own keeps the contract, before anything trains on it."""
