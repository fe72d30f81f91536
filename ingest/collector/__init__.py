"""Events and webhooks over HTTP, written to the landing zone before a 2xx."""
