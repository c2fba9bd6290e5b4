"""Environments: MuJoCo stepping, the embedded tabletop suite and LIBERO. Depends on no other package of this project."""
