"""Rewards to compare with, each in one file that can be deleted; found by the file's name."""
