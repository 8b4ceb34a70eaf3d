"""What is trained on the maps of an encoder: heads, their views of images, and the loop that fits them."""
