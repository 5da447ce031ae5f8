"""The tests. This is a package so that an installed package named tests does not take its place."""
