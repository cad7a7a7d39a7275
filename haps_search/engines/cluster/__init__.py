"""The engine on Ray: a pool of candidates hosted by Ray Train, a broker, and one router actor per trial."""
