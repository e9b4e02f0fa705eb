"""What goes to the Hugging Face Hub, and how: only where `gwen25 push` is asked for.

story(store, artifact)      all that the store knows of an artifact: lineage, data, evaluations, its GGUFs
card(story, hub_id)         the model card, from that alone: what is unknown is called unknown
send(hub_id, files, ...)    one commit, whole or not at all
"""
