"""From positions of the stream to batches: what is made, in which memory, and by which processes."""
