"""Files of the page and of the documentation; pipelines.pages serves them."""
