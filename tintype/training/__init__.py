"""One run from recipe to report: prepare, train, measure, write down."""
