"""Reading images, cutting crops, drawing masks, cleaning collections."""
