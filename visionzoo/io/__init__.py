"""Reading and writing of images, videos and rasters of any size; outputs are written atomically."""
