"""Measurements that a release's claims rest on, repeatable by `make bench`. Not installed, and no part of the tests but one small check."""
