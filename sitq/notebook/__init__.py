"""What is drawn in a notebook; stands on the records alone."""
