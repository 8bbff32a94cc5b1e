"""What the gateway costs, and what others' tools say of it."""
