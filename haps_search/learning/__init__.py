"""From rewards to a router's next weights."""
