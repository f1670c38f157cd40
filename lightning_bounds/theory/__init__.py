"""The mathematics: tensors in, tensors out; one topic a file; torch only."""
