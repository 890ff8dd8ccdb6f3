"""What others call: webhooks and the REST API. It writes to Kafka and Postgres and never applies."""
