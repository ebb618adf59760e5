"""A Llama forward over explicit keys and values, and experiments on them."""
