"""A chat whose database logins expire while people talk, with everything it needs to run."""
