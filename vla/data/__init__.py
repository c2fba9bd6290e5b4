"""Episodes: the record of one rollout, and demonstrations on disk as LeRobotDataset v3.0."""
