"""What must survive: SQL, migrations and the values read from the tables."""
