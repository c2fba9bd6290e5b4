"""Vision-language-action policies and everything that trains, evaluates and records them."""
