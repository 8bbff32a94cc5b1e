"""Two runs side by side: differences with confidence intervals, and a verdict a figure."""
