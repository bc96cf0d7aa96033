"""Checks that methods and teachers of any origin must pass; public, so that others can use them."""
