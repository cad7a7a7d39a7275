"""Where the parts of a run live: `local` in one process, `cluster` on Ray."""
