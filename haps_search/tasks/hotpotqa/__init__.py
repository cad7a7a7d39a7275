"""Teacher and student on HotpotQA: a dialogue of searches, verdicts and answers."""
