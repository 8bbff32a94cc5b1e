"""An example: the large model writes data, the small one is trained on what passed the filters."""
