"""How a router searched on an outcome table is judged: beside references, over questions and seeds."""
