"""Ways to guess tokens ahead, and how many guesses pay."""
