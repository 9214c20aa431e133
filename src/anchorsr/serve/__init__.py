"""The page and the server for people who do not use a terminal, and a REST interface."""
