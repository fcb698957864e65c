"""In-flight batching: requests join and leave a running batch at token boundaries, over a paged cache."""
