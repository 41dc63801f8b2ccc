"""One HTML file that shows what a model answered, for people who do not know the code."""
