"""What a person or a cluster runs: the `radet` command and job files."""
