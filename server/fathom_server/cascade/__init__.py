"""Small beside large: a small model answers first, a large one where the small one's answer is not to be trusted."""
