"""From a folder of pictures to cached latents and prompt embeddings."""
