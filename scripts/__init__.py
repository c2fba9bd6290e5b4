"""What a user of the package never imports: pretraining, speed studies, learning curves, checks."""
