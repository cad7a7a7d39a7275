"""One self-contained page of a sweep or a run: what it shows is computed here, apart from drawing it."""
