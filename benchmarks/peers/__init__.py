"""Speed of the served LLM beside other engines on the same machine, in the same minutes."""
