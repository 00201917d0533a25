"""Tools that make other files from the notebook. No step needs them."""
