"""From a release to an answer. Imports data's schema, features and aggregates; never torch, never Lightning."""
