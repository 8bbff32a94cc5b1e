"""What an answer must pass to become a row of training data; one file a filter, ``pipeline`` runs them in order."""
