"""What a deployment did, step by step: a log that replays to the bit, and a LeRobot dataset that trains."""
