"""What a deployment does when something breaks: one fault after another on the emulated SO-101, and a verdict on each."""
