"""Weight formats and recipes: how each tensor is stored."""
