"""Flow matching: chunks of actions that a learned velocity carries from noise to what demonstrations show."""
