"""Several adapters in one image: regional attention, masks, blending, collages. `pipelines` generates the images."""
