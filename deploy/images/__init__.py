"""What the images weigh."""
