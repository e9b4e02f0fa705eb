"""Manners: one Prefect task a node. Order is in `flows`, work in `gwen25.pipelines`."""
