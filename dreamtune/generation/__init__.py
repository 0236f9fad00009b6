"""Several adapters in one picture: regional attention, masks, blending, collages. Pictures come from `pipelines`."""
