"""All SQL: the schema, the transactions, the statements."""
