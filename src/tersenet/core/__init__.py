"""What every room shares: the types, whole files, the table of methods."""
