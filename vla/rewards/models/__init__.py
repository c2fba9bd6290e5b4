"""Reward models: pictures, features or states of a moment in, one number out."""
