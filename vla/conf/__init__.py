"""Configuration: the Hydra files of each command, and how overrides become its dataclass."""
