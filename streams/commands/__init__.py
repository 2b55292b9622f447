"""Commands on their way: out of the database to Kafka, and what devices say of them back."""
