"""The solver study: problems with known answers, the solvers on them, and what their numbers say."""
