"""What a deployment does when something breaks: fault after fault on the emulated SO-101, and a verdict on each."""
