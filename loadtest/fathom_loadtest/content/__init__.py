"""What requests say: prompts of files, synthetic ones, those of a trace; the n-th request always says the same."""
