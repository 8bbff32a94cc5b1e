"""What holds docker-compose.yml, .env.example and the Dockerfiles together."""
