"""From a folder of images to cached latents and prompt embeddings."""
