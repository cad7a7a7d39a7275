"""A run as a service: its router decides, its candidates answer, and clients of the OpenAI protocol ask."""
