"""Parts of networks: torch only, plain arguments in, tensors out. Nothing here knows fairseq or its options."""
