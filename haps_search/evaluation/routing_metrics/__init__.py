"""What a routing is worth: definitions with their sources, on plain arrays of questions x assignments."""
