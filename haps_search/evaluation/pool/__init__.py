"""Is this pool worth routing? What an outcome table says, before anything is trained."""
