"""What is run on a GPU box: is everything right there, and how fast is it."""
