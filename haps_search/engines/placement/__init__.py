"""Who sits where on a cluster, and whether it fits, before anything is started. Nothing here knows Ray."""
