"""A pretend spot market behind a real EC2 endpoint, with known truth.  Never AWS."""
