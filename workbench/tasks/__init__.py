"""Real input for the methods: sentences, digits, sequences."""
