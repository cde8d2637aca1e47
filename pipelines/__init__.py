"""One job a file, and a file is a verb of the `sds` command; see `sdstoolkit.cli`."""
