"""The gateway's edge: who may ask, how much and how fast, and what is seen of it. Pure ASGI, around the routes."""
