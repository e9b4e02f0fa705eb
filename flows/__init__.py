"""Order: which nodes run after which. Manners are in `tasks`, work in `gwen25.pipelines`."""
