"""Deployment of policies on robot arms."""
