"""What the lessons need and a reader should not see at once: exercises with their solutions, numbers for pictures."""
