"""What a user does, a module each: functions with typed results that print nothing."""
