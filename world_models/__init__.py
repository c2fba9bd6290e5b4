"""World-model encoders and latent dynamics. Depends on torch and transformers only."""
